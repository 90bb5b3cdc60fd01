"""Creates or updates the automations of `deployments/automations.yaml`, each once, by its name."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flows.alerts import BLOCK_NAME, block_for
from flows.service import FOLDER, from_yaml
from flows.settings import Settings
from tasks.errors import SettingsError

ALERT = "alert"


def automations(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Return the automations as the file has them. Raises SettingsError if it is not there or cannot be read."""
    found: list[dict[str, Any]] = from_yaml(folder / "automations.yaml")
    return found


def apply(settings: Settings, folder: Path = FOLDER) -> list[str]:
    """Create or update every automation, and the block that alarms go to; return the names of those that exist now.

    Without TAPE_ALERT_URL those that only send are left out, and removed if they were there.
    """
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.automations import AutomationCore

    block_id = None
    if settings.alert_url is not None:
        block_id = str(block_for(settings.alert_url).save(BLOCK_NAME, overwrite=True))
    names = []
    with get_client(sync_client=True) as client:
        for each in automations(folder):
            known = client.read_automations_by_name(each["name"])
            wanted = _resolved(each, block_id, client)
            for extra in known[1:] if wanted["actions"] else known:
                client.delete_automation(extra.id)
            if not wanted["actions"]:
                continue
            try:
                automation = AutomationCore.model_validate(wanted)
            except ValidationError as error:
                raise SettingsError(f"{folder / 'automations.yaml'}: {each['name']}: {error}") from error
            names.append(automation.name)
            if known:
                # What somebody paused in the UI stays paused.
                client.update_automation(known[0].id, automation.model_copy(update={"enabled": known[0].enabled}))
            else:
                client.create_automation(automation)
    return names


def _resolved(automation: dict[str, Any], block_id: str | None, client: Any) -> dict[str, Any]:
    """Return the automation with IDs in place of names, without actions whose block does not exist."""
    actions = []
    for action in automation["actions"]:
        found = dict(action)
        if found.get("block_document_id") == ALERT:
            if block_id is None:
                continue
            found["block_document_id"] = block_id
        if "/" in str(found.get("deployment_id", "")):
            found["deployment_id"] = str(client.read_deployment_by_name(found["deployment_id"]).id)
        actions.append(found)
    return {**automation, "tags": ["tape"], "actions": actions}
