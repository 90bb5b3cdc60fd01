"""Where alarms go: the notification block that automations use, and the same receiver without Prefect's server."""

from typing import TYPE_CHECKING

from pydantic import SecretStr

from tasks.errors import TransientError

if TYPE_CHECKING:  # Importing it takes seconds.
    from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook

BLOCK_NAME = "tape-alert"
_NATIVE = ("https://hooks.slack.com/", "https://hooks.slack-gov.com/")


def block_for(address: SecretStr) -> "SlackWebhook | CustomWebhookNotificationBlock":
    """Return the block that sends to this address.

    A plain http or https address gets JSON with `subject` and `body`. Slack's own, and every other kind (`mailtos://…`,
    `tgram://…`), goes through Apprise, which knows it by its scheme; Prefect's Slack block takes any of them.
    """
    from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook

    text = address.get_secret_value()
    if not text.startswith(("http://", "https://")) or text.startswith(_NATIVE):
        return SlackWebhook(url=address)
    return CustomWebhookNotificationBlock.model_validate(
        {
            "name": "tape", "url": "{{address}}", "json_data": {"subject": "{{subject}}", "body": "{{body}}"},
            "secrets": {"address": text},
        }
    )  # fmt: skip


def send(address: SecretStr, subject: str, body: str) -> None:
    """Send an alarm without any server of Prefect's. Raises TransientError, without the address, if that fails."""
    block = block_for(address)
    try:
        with block.raise_on_failure():
            block.notify(body, subject)
    except Exception as error:
        # Its text can contain the address, which is a secret.
        raise TransientError(f"TAPE_ALERT_URL: the alarm could not be sent ({type(error).__name__})") from None
