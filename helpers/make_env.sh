#!/bin/sh
# Make or refresh .venv, from the repository's root: sh helpers/make_env.sh lab|dev
# Installs nothing when .venv already holds what requirements*.txt ask for.
set -eu

what=$1
PYTHON=${PYTHON:-}

# Checksums and not dates: a checkout that only touches the files installs nothing. The folder is
# part of it because a virtual environment does not survive being moved.
state() {
    pwd
    cksum pyproject.toml requirements.txt binder/overrides.json
    [ "$1" = lab ] || cksum requirements-dev.txt
}

stamp() { cat ".venv/stamp-$1" 2>/dev/null || true; }

# True for an environment that was finished once, here, with the Python that is asked for.
usable() {
    [ -x .venv/bin/python ] && [ "$(stamp lab | head -n 1)" = "$(pwd)" ] || return 1
    [ -z "$PYTHON" ] || [ "$(cat .venv/asked)" = "$PYTHON" ]
}

# Prints the interpreter behind the candidate: inside an activated .venv, the one it came from.
probe='
import sys
name = "Python %d.%d" % sys.version_info[:2]
if sys.version_info < (3, 11):
    sys.exit(name + " is too old, 3.11 or later is needed")
try:
    import ensurepip, venv
except ImportError:
    sys.exit(name + " cannot make an environment: ensurepip is missing")
print(getattr(sys, "_base_executable", sys.executable))
'

find_python() {
    if [ -n "$PYTHON" ]; then
        set -- "$PYTHON"
    else
        set -- python3.13 python3.12 python3.11 python3
    fi
    seen=
    for candidate do
        command -v "$candidate" >/dev/null 2>&1 || continue
        if answer=$("$candidate" -c "$probe" 2>&1); then
            python=$(printf '%s\n' "$answer" | tail -n 1)
            return
        fi
        # A version manager's stub answers with a screenful of its own.
        case $answer in "Python "*) ;; *) answer="does not run" ;; esac
        seen="$seen  $candidate: $answer
"
    done
    [ -n "$seen" ] || seen="  $* not found
"
    cat >&2 <<END
No Python here can make the environment that the notebooks run in.
$seen
Type one of these, then the same make command again:
  sudo apt install python3-venv make git             Debian 12, Ubuntu 24.04 or later
  brew install python                                macOS
  curl -LsSf https://astral.sh/uv/install.sh | sh    any system, no root; then open a new terminal
END
    exit 1
}

case $what in
lab) requirements=requirements.txt ;;
dev) requirements=requirements-dev.txt ;;
*) echo "usage: sh helpers/make_env.sh lab|dev" >&2 && exit 2 ;;
esac

if usable && [ "$(stamp "$what")" = "$(state "$what")" ]; then
    exit 0
fi

if command -v uv >/dev/null 2>&1; then
    if ! usable; then
        rm -rf .venv
        # --seed, so that %pip works in a notebook.
        uv venv --seed --python "${PYTHON:->=3.11,<3.15}" .venv
    fi
    # Without bytecode the first worker would pay for compiling, in the middle of an experiment.
    uv pip install --python .venv/bin/python --compile-bytecode -r "$requirements"
else
    if ! usable; then
        find_python
        echo "Making .venv and installing $requirements. A minute or two, the first time only."
        rm -rf .venv
        "$python" -m venv .venv
    fi
    .venv/bin/python -m pip install --disable-pip-version-check -r "$requirements"
fi

# No question about Jupyter's news in front of the first page; a link to a .md file shows it as a page.
mkdir -p .venv/share/jupyter/lab/settings
cp binder/overrides.json .venv/share/jupyter/lab/settings

# Last, so that an interrupted run leaves no stamp and the next one starts afresh.
[ -f .venv/asked ] || printf '%s\n' "$PYTHON" >.venv/asked
[ "$what" = lab ] || state dev >.venv/stamp-dev
state lab >.venv/stamp-lab
