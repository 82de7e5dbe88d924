"""Templates for Flower: ours under `celeriac/`, Flower's own, and one more tab in its navigation bar."""

from __future__ import annotations

from pathlib import Path

from tornado.template import BaseLoader, Template

OURS = "celeriac/"
_FOLDER = Path(__file__).parent / "templates"
_NAVBAR = "navbar.html"

# Flower's navigation bar has no block to extend. This is where its list of tabs ends.
_END_OF_TABS = '</ul>\n\n      <ul class="app-nav app-nav-secondary'
_TAB = """  <li class="nav-item">
          <a class="nav-link{% if active_tab == 'breakers' %} active{% end %}"
            href="{{ reverse_url('breakers') }}"
            {% if active_tab == 'breakers' %}aria-current="page"{% end %}>Breakers</a>
        </li>
      """


class UnsupportedFlowerError(RuntimeError):
    """The installed Flower does not have the navigation bar that our tab goes into."""


class PageLoader(BaseLoader):
    """Loads `celeriac/<file>` from our folder and every other name from Flower's folder.

    Raises UnsupportedFlowerError when it is made, not when the first page is asked for.
    """

    def __init__(self, flower_folder: str) -> None:
        super().__init__()  # Tornado's defaults, as in Flower: everything is escaped
        self._flower_folder = Path(flower_folder)
        self.load(_NAVBAR)

    def resolve_path(self, name: str, parent_path: str | None = None) -> str:  # noqa: ARG002  names are absolute here
        """Our pages extend Flower's by bare name, so a name means the same wherever it is written."""
        return name

    def _create_template(self, name: str) -> Template:
        ours = name.startswith(OURS)
        path = _FOLDER / name.removeprefix(OURS) if ours else self._flower_folder / name
        source = path.read_text("utf-8")
        if name == _NAVBAR:
            source = _with_tab(source)
        return Template(source, name=name, loader=self)


def _with_tab(navbar: str) -> str:
    if navbar.count(_END_OF_TABS) != 1:
        raise UnsupportedFlowerError(
            "the installed Flower has another navigation bar than Flower 2.2, which takes the tab of the "
            'dashboard: install "flower>=2.2,<2.3"'
        )
    return navbar.replace(_END_OF_TABS, _TAB + _END_OF_TABS)
