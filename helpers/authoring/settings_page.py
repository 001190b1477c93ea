"""Write notebooks/settings.md, the settings page: the table of helpers/settings.py, counted.

`make settings`. No count, default, version or date on that page is typed.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from helpers import Stack, private_directory
from helpers.authoring import ROOT
from helpers.settings import SETTINGS, Runs, Setting, Where, defaults, names_in
from helpers.trials import provenance

GRIDS = ROOT / "notebooks" / "grids"
PAGE = ROOT / "notebooks" / "settings.md"
TEXT = """# The settings that survived

What each setting prevents, what it costs, and when it holds. *20/20 → 0/20* reads: in 20 of 20
runs without it, in none of 20 with it. A single number is with it.

Runs: {runs}; prefork pool; {dates}.
Defaults: {parts}.

| setting | prevents | costs | holds when |
|---|---|---|---|
{rows}

No line makes a task run exactly once. What comes back may run twice: make its effect safe to repeat
([05](05_run_it_twice.ipynb)). {transport} belong in
`broker_transport_options`, the same in every application. A managed Redis may start with other
defaults, and many refuse `CONFIG`: `INFO memory` tells its `maxmemory_policy`.
"""


class Grids:
    """The stored runs, and what is counted in them."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self._runs = {
            name: pd.read_csv(folder / f"{name}.csv", keep_default_na=False) for name in names
        }
        self._counted: list[pd.DataFrame] = []

    def shown(self, runs: Runs) -> str:
        """One word for each arm, as "20/20 → 0/20". Raises ValueError for an arm without a run."""
        return " → ".join(self._arm(runs, arm) + runs.unit for arm in runs.arms)

    def counted(self) -> pd.DataFrame:
        """All runs that something was counted in: where they come from stands on the page."""
        return pd.concat(self._counted)

    def _arm(self, runs: Runs, arm: Mapping[str, str]) -> str:
        some = self._runs[runs.grid]
        for column, value in arm.items():
            some = some[some[column].astype(str) == value]
        if some.empty:
            raise ValueError(f"{runs.grid}.csv has no runs with {arm}")
        self._counted.append(some)
        values = some.eval(runs.value)
        if runs.shown == "how often":
            return f"{values.sum()}/{len(values)}"
        return f"{values.median() if runs.shown == 'median' else values.max():,.0f}"


def page(default: Mapping[str, str], parts: Mapping[str, str], folder: Path = GRIDS) -> str:
    """The page, from the defaults of some installed parts and from the CSV files in `folder`.

    Raises ValueError when runs that it needs are gone.
    """
    grids = Grids(folder, sorted({name for setting in SETTINGS for name in _grids(setting)}))
    rows = "\n".join(_row(setting, default, grids) for setting in SETTINGS)
    runs = grids.counted()
    days = runs["date"]
    return TEXT.format(
        runs=_versions({part: sorted(runs[part].unique()) for part in parts}),
        dates=" to ".join(sorted({days.min(), days.max()})),
        parts=_versions({part: [version] for part, version in parts.items()}),
        rows=rows,
        transport=_listed(names_in(Where.TRANSPORT)),
    )


def _row(setting: Setting, default: Mapping[str, str], grids: Grids) -> str:
    counts = {name: grids.shown(runs) for name, runs in setting.evidence.items()}
    seen = [f"[{page[:2]}]({page}.ipynb)" for page in setting.pages]
    seen += [f"[runs](grids/{grid}.csv)" for grid in _grids(setting)]
    by_default = setting.default.format(*(default[name] for name in setting.asked))
    cells = [
        f"{setting.shown}<br>default: {by_default}<br>seen in: {', '.join(seen)}",
        *(text.format(**counts) for text in (setting.prevents, setting.costs, setting.conditions)),
    ]
    return f"| {' | '.join(cells)} |"


def _grids(setting: Setting) -> list[str]:
    return list(dict.fromkeys(runs.grid for runs in setting.evidence.values()))


def _listed(names: Iterable[str]) -> str:
    *most, last = [f"`{name}`" for name in names]
    return f"{', '.join(most)} and {last}" if most else last


def _versions(found: Mapping[str, Iterable[str]]) -> str:
    words = {"celery": "Celery ", "kombu": "kombu ", "server": ""}
    return ", ".join(word + version for part, word in words.items() for version in found[part])


def ask() -> tuple[dict[str, str], dict[str, str]]:
    """The defaults of the parts installed here, and the version of each part."""
    with Stack(private_directory(), backend=None) as stack:
        made = provenance(stack)
        return defaults(stack.redis), {part: made[part] for part in ("celery", "kombu", "server")}


if __name__ == "__main__":
    PAGE.write_text(page(*ask()), encoding="utf-8")
    print(PAGE.relative_to(ROOT))
