"""What `import corolla` offers programs, and what it leaves alone."""

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import corolla
from petl_vit import errors

ROOT = Path(corolla.__file__).parent.parent
HEAVY = ("torch", "grpc", "PIL", "numpy", "timm", "obstore", "pydantic")


def imported(code: str) -> list[str]:
    """The modules that code imports in a fresh process."""
    code = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def test_importing_it_imports_nothing_heavy() -> None:
    assert not {*HEAVY} & {*imported("import corolla; dir(corolla)")}


def test_a_client_imports_no_torch() -> None:
    assert not {"torch", "PIL", "timm"} & {*imported("import corolla; corolla.Client; corolla.AdminClient")}


def test_listing_a_store_imports_no_torch_and_no_grpc(tmp_path: Path) -> None:
    code = f"import corolla\nwith corolla.Store({str(tmp_path)!r}) as store: assert store.adapters() == []"

    assert not {"torch", "grpc", "PIL", "timm"} & {*imported(code)}


@pytest.mark.parametrize("name", corolla.__all__)
def test_every_name_that_it_offers_is_there(name: str) -> None:
    assert getattr(corolla, name).__name__ == name
    assert name in dir(corolla)


def test_editors_and_mypy_see_the_same_names() -> None:
    tree = ast.parse(Path(corolla.__file__).read_text())
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = [a.name for node in guarded.body if isinstance(node, ast.ImportFrom) for a in node.names]

    assert sorted(seen) == sorted(corolla.__all__)


def test_it_offers_every_error_that_a_program_may_catch() -> None:
    kinds = (value for value in vars(errors).values() if isinstance(value, type))
    tree = {kind.__name__ for kind in kinds if issubclass(kind, errors.CorollaError)}

    assert len(tree) > 5
    assert tree - {*corolla.__all__} == set()


def test_a_name_that_it_does_not_offer_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Cleint'"):
        _ = corolla.Cleint  # type: ignore[attr-defined]


def test_a_missing_library_is_told_with_what_brings_it() -> None:
    code = "import sys; sys.modules['grpc'] = None; import corolla; corolla.Client"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert "pip install 'corolla[client]'" in done.stderr


def test_every_package_is_marked_as_typed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]

    assert "py.typed" in project["package-data"]["*"]
    floors = [name.removesuffix("*") for name in project["packages"]["find"]["include"]]
    assert [name for name in floors if not (ROOT / name / "py.typed").exists()] == ["deploy"]
