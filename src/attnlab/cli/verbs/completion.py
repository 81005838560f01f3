"""complete words in your shell: bash, zsh, fish"""

import re
from pathlib import Path

from attnlab.errors import InputError

GROUP, PLACE, WORDS = "use", 9, "bash|zsh|fish"

COMPOSES = ("train", "plan", "data", "sites", "cost")  # verbs that take key=value
SCRIPTS = {
    "bash": """_attnlab() {
  local IFS=$'\\n' word="${COMP_LINE:0:COMP_POINT}"
  COMPREPLY=($(attnlab completion --line "$word" 2>/dev/null))
  word="${word##* }"
  [[ "$word" == *=* ]] && COMPREPLY=("${COMPREPLY[@]#"${word%%=*}="}")  # bash completes what follows =
}
complete -o default -o nospace -F _attnlab attnlab""",
    "zsh": """#compdef attnlab
_attnlab() {
  local -a found=("${(@f)$(attnlab completion --line "${(j: :)words[1,CURRENT]}" 2>/dev/null)}")
  if [[ -n "$found" ]]; then compadd -S '' -- $found; else _files; fi
}
compdef _attnlab attnlab""",
    "fish": """function __attnlab
  attnlab completion --line (commandline --cut-at-cursor) 2>/dev/null
end
complete --command attnlab --arguments '(__attnlab)'""",
}
HELP = """attnlab completion bash|zsh|fish

Prints a script that makes the shell complete verbs, config groups, their choices and settings.

  bash   echo 'eval "$(attnlab completion bash)"' >> ~/.bashrc
  zsh    echo 'eval "$(attnlab completion zsh)"' >> ~/.zshrc     (after compinit)
  fish   attnlab completion fish > ~/.config/fish/completions/attnlab.fish"""


def run(argv: list[str]) -> int:
    """Print the script, or with --line the words that could come next."""
    if not argv or {"-h", "--help"} & set(argv):
        print(HELP)
    elif argv[0] == "--line" and len(argv) == 2:
        print(*candidates(argv[1]), sep="\n")
    elif len(argv) == 1 and argv[0] in SCRIPTS:
        print(SCRIPTS[argv[0]])
    else:
        raise InputError(f"attnlab completion {' '.join(argv)}: must be one of {', '.join(SCRIPTS)}")
    return 0


def candidates(line: str) -> list[str]:
    """Words that could end this command line, from the names of config files and the keys in them."""
    from attnlab.cli.dispatch import names

    _, *words = line.split(" ")
    word = words[-1] if words else ""
    if len(words) <= 1:
        return [f"{name} " for name in names() if name.startswith(word)]
    if words[0] not in COMPOSES:
        return []
    group, is_choice, choice = word.rpartition("=")[0], "=" in word, word.rpartition("=")[2]
    if is_choice:
        before, comma, last = choice.rpartition(",")
        return [f"{group}={before}{comma}{name}" for name in _choices(group) if name.startswith(last)]
    chosen = dict(w.split("=", 1) for w in words[1:-1] if "=" in w)
    keys = {f"{key}=" for key in (*_groups(), *_keys(chosen))}
    return sorted(key for key in keys if key.startswith(word))


def _conf() -> Path:
    packaged = Path(__file__).parents[2] / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parents[4] / "conf"


def _groups() -> list[str]:
    folders = [path for path in _conf().rglob("*") if path.is_dir() and any(path.glob("*.yaml"))]
    return sorted(path.relative_to(_conf()).as_posix() for path in folders)


def _choices(group: str) -> list[str]:
    return sorted(path.stem for path in (_conf() / group).glob("*.yaml")) if group in _groups() else []


def _keys(chosen: dict[str, str]) -> list[str]:
    """Settings: those of train.yaml, and those of each group's chosen files, or of all where none is chosen."""
    found = _keys_of(_conf() / "train.yaml", nested=True)
    for group in _groups():
        wanted = [name for name in chosen.get(group, "").split(",") if name in _choices(group)]
        for name in (wanted or _choices(group)) if group != "experiment" else ():
            dotted = group.replace("/", ".")
            found += [f"{dotted}.{key}" for key in _keys_of(_conf() / group / f"{name}.yaml")]
    return found


def _keys_of(path: Path, nested: bool = False) -> list[str]:
    found, parent = [], ""
    for indent, key, value in re.findall(r"^( *)(\w+):(.*)", path.read_text(encoding="utf-8"), re.MULTILINE):
        if not indent:
            parent = key
        if key in ("name", "_target_", "defaults") or parent in ("defaults", "hydra"):
            continue
        if indent and not nested:
            continue
        if value.strip() and not value.strip().startswith("#"):
            found.append(f"{parent}.{key}" if indent else key)
    return found
