"""Plain HTML elements for NiceGUI: native buttons, inputs, and lists need no framework's style to be accessible."""

from typing import Any

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement


class Tag(TextElement):
    """An HTML element with a text, which the browser never reads as HTML."""

    def __init__(self, tag: str, classes: str = "", text: str = "", **attributes: Any) -> None:
        """Create the element; an underscore in an attribute's name stands for a hyphen."""
        super().__init__(tag=tag, text=text)
        self.classes(classes)
        self.set(**attributes)

    def say(self, text: str) -> None:
        """Change the text; nothing is sent if it is the same."""
        if text != self.text:
            self.text = text

    def set(self, **attributes: Any) -> "Tag":
        """Change attributes; nothing is sent if they are the same."""
        for name, value in attributes.items():
            key = name.rstrip("_").replace("_", "-")
            if self.props.get(key) != value:
                self.props[key] = value
        return self


class Markup(ui.html):
    """HTML that `markup.py` has made, sent only when it has changed."""

    def __init__(self, classes: str = "", **attributes: Any) -> None:
        """Create the element, empty."""
        super().__init__("", sanitize=False)
        self.classes(classes)
        self.props.update({name.replace("_", "-"): value for name, value in attributes.items()})

    def show(self, content: str) -> None:
        """Replace the content."""
        if content != self.content:
            self.content = content


class Chart:
    """An ECharts chart to which only what has changed is sent."""

    def __init__(self, options: dict[str, Any], kind: object, told: str, testid: str) -> None:
        """Create the chart with all of its options; `told` is for whoever cannot see it."""
        self._kind, self._sent = kind, options
        self._element = ui.echart(dict(options)).classes("chart")
        self._element.props.update({"role": "img", "aria-label": told, "data-testid": testid})

    def show(self, options: dict[str, Any], kind: object, told: str) -> None:
        """Send the options that differ; all of them if the kind (symbol, theme, mode) is another."""
        if kind != self._kind:
            with self._element.props.suspend_updates():
                self._element.props.update({"options": dict(options), "aria-label": told})
            self._element.update()
        elif changed := {name: value for name, value in options.items() if value != self._sent[name]}:
            self._element.run_chart_method("setOption", changed)
        self._kind, self._sent = kind, options
