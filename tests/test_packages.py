"""The package list in pyproject.toml is that of the tree."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_packages_are_those_of_the_tree():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    roots = setuptools["package-dir"]
    found = []
    for package, folder in roots.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.append(".".join((package, *init.parent.relative_to(ROOT / folder).parts)))
    assert sorted(found) == sorted(setuptools["packages"])


def test_every_folder_with_code_is_a_package():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for folder in setuptools["package-dir"].values()
               for path in (ROOT / folder).rglob("*.py")}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").exists()]


def test_no_namespace_init():
    assert not (ROOT / "__init__.py").exists()
