"""Plans: lists of runs, written as TOML files. Those of the paper's tables and figure lie in `shipped`."""

import itertools
import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from shallowpaths.theory.checks import one_of
from shallowpaths.training.config import SETTINGS, RunConfig

FOLDER = Path(__file__).parent / "shipped"
NAMES: tuple[str, ...] = tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))
TABLES = ("description", "common", "grid")
RATES = ("learning_rate", "effective_learning_rate")


class Plan(NamedTuple):
    """A list of runs, and what it is for."""

    description: str
    configs: tuple[RunConfig, ...]


def read_plan(name_or_path: str | Path) -> Plan:
    """The shipped plan of that name, or the plan in that file.

    A plan has a `description`, a table `common` with settings of every run, and tables `[[grid]]`: a list there stands
    for one run per value, several lists for every combination. Settings are RunConfig's, or `effective_learning_rate`.
    A rate may be "2^-3", or all whole powers of 2 of a range, "2^-3..2^0". Raises ValueError: no such plan, no TOML, an
    unknown key, or a bad value.
    """
    path = FOLDER / f"{name_or_path}.toml" if str(name_or_path) in NAMES else Path(name_or_path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        said = f"neither a file that can be read nor a shipped plan. Shipped are {', '.join(NAMES)}"
        raise ValueError(f"plan {str(name_or_path)!r}: {said}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"plan {path.name} is no TOML: {error}") from error
    try:
        return _plan(content)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"plan {path.name}: {error}") from error


def _plan(content: dict[str, Any]) -> Plan:
    _known(content, TABLES, "the plan")
    common, tables, configs = _known(content.get("common", {}), SETTINGS, "[common]"), content.get("grid", []), []
    if not isinstance(tables, list):
        raise ValueError("grid is no list of tables: write [[grid]], with two brackets")
    for number, table in enumerate(tables, start=1):
        settings = _merged(common, _known(table, SETTINGS, f"[[grid]] number {number}"))
        make = RunConfig.at_effective_rate if "effective_learning_rate" in settings else RunConfig
        configs += [make(**dict(zip(settings, x, strict=True))) for x in itertools.product(*settings.values())]
    if not configs:
        raise ValueError("it holds no run: give it a [[grid]]")
    return Plan(" ".join(str(content.get("description", "")).split()), tuple(configs))


def _merged(common: dict[str, Any], table: dict[str, Any]) -> dict[str, list]:
    """Every setting with its list of values; a table's own rate or budget stands instead of the common one."""
    for rivals in (RATES, ("epochs", "steps")):
        if any(r in table for r in rivals):
            common = {key: value for key, value in common.items() if key not in rivals}
    settings = {key: value if isinstance(value, list) else [value] for key, value in {**common, **table}.items()}
    if empty := [key for key, values in settings.items() if not values]:
        raise ValueError(f"{', '.join(empty)} is an empty list")
    return {key: [*itertools.chain(*map(_rates, v))] if key in RATES else v for key, v in settings.items()}


def _rates(value: Any) -> list[float]:
    """A number, a power of 2 or a range of them, as a list of rates."""
    if not isinstance(value, str):
        return [value]
    match = re.fullmatch(r"2\^(-?\d+)(?:\.\.2\^(-?\d+))?", value.replace(" ", ""))
    if not match:
        raise ValueError(f'rate {value!r}: write a number, a power of 2 as "2^-3", or a range of them as "2^-3..2^0"')
    low, high = int(match[1]), int(match[2] or match[1])
    if low > high:
        raise ValueError(f"rate {value!r}: the range is empty, its lower end comes first")
    return [2.0**k for k in range(low, high + 1)]


def _known(table: Any, known: tuple[str, ...], where: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ValueError(f"{where} is no table of settings")
    for key in table:
        one_of(f"{where}: key", key, known)
    return table
