"""Pages of documentation, run as they stand."""

import re
import shlex

from lrpfast import cli


def blocks(text, language):
    """The page's blocks of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text, capsys):
    """Run every `$ lrpfast …` of the page: (command, what it prints, what the page shows), both without times."""
    found = re.findall(r"^\$ lrpfast (.*)\n((?:[^$].*\n|\n)*)", "".join(blocks(text, "console")), re.MULTILINE)
    for command, shown in found:
        assert cli.main(shlex.split(command)) == 0
        yield command, *(re.sub(r" in .* a second", "", output) for output in (capsys.readouterr().out, shown))
