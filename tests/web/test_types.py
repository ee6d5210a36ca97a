"""The package's type declarations compile in strict mode with a program that uses them, and match the exports."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import opensnac

WEB = Path(__file__).parents[2] / "web"
TSC = WEB / "node_modules/typescript/bin/tsc"


@pytest.fixture
def node() -> str:
    if (node := shutil.which("node")) is None:
        pytest.skip("no node found; apt-get install nodejs")
    return node


def test_declarations_compile(node):
    if not TSC.exists():
        pytest.skip("no typescript in web/node_modules; make web")
    run = subprocess.run([node, TSC, "-p", WEB], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("module", ["index.js", "bitstream/index.js"])
def test_declarations_name_every_export(node, module):
    script = f"console.log(JSON.stringify(Object.keys(await import('{WEB / 'src' / module}'))))"
    run = subprocess.run([node, "--input-type=module", "-e", script], capture_output=True, text=True, check=True)
    assert set(json.loads(run.stdout)) == declared(WEB / "src" / module.replace(".js", ".d.ts"))


def test_the_package_has_the_version_of_python_s():
    assert json.loads((WEB / "package.json").read_text(encoding="utf-8"))["version"] == opensnac.__version__


def declared(path: Path) -> set[str]:
    """Names of values in a declaration file, with those it re-exports."""
    text = path.read_text(encoding="utf-8")
    names = set(re.findall(r"^export (?:class|function|const) (\w+)", text, re.MULTILINE))
    for other in re.findall(r'^export \* from "(.+)";', text, re.MULTILINE):
        names |= declared(path.parent / other.replace(".js", ".d.ts"))
    return names
