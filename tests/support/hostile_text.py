"""Text that acts on terminals, pages and shells, and the check that a printed text only shows it."""

import re
import shlex
import unicodedata

from robharness.text import MAX_MARKS

FORGED = "robharness: FORGED"
"""No line that is printed begins so."""
CONTROL = (
    "\x1b]0;title\x07\x1b[31mred\b\x7f\x9b2K\u202eright\u2066\u200f\u200b\ufeff\U000e0041\ue000\ud800"
    + "".join(f"{end}{FORGED}" for end in "\n\r\v\f\x1c\x85\u2028\u2029")
    + "e"
    + 500 * "\u0301"
)
MARKUP = (
    "](javascript:x)<img src=x>| a |[red]r[/][link=x]``` `c` **b** _e_ :smile: &lt; https://x.y $(reboot); reboot \"'\\"
)
LONG = "x" * 10_000
TEXTS = {"control": CONTROL, "markup": MARKUP, "long": LONG}
COMMANDS = {"robharness", "pip", "ls", "rm", "mkdir", "df", "the", "-p", "see", "correct", "add"}
"""First words of what is printed as a command."""
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
LONGEST_LINE = 6000


def check(text, *, is_data=False):
    """Check that a text that was printed holds only lines of visible characters, and commands that can be typed.

    is_data: whether it is JSON, whose texts have any length.
    """
    hidden = [c for c in text if c != "\n" and unicodedata.category(c) in HIDDEN]
    assert not hidden, ascii(hidden)
    assert not re.search(f"[\u0300-\u036f]{{{MAX_MARKS + 1}}}", text)
    for line in text.split("\n"):
        assert is_data or len(line) <= LONGEST_LINE
        assert not line.removeprefix("- ").startswith(FORGED)
        for command in (
            () if is_data else re.findall(r"(?:Try|o go on|To get it|o compute again|o try again): (.*)$", line)
        ):
            assert re.match("set `", command) or shlex.split(command)[0].rstrip(":") in COMMANDS, command
    return text
