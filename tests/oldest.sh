#!/usr/bin/env bash
# What depends on diffusers and transformers, tested with the oldest diffusers that pyproject.toml allows and a
# transformers of its time:
#
#     bash tests/oldest.sh [ARGUMENT OF PYTEST...]
#
# It makes a second environment, .venv-oldest, which borrows all other packages from .venv (make test makes that one).
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv} OLD=${OLD:-.venv-oldest}
site() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

if [ ! -e "$OLD/.installed" ]; then
    "$VENV/bin/python" -m venv "$OLD"
    "$OLD/bin/python" -m pip install --quiet --no-deps \
        'diffusers==0.35.*' 'transformers==4.50.*' 'huggingface_hub>=0.34,<1' 'tokenizers>=0.21,<0.22'
    site "$VENV" > "$(site "$OLD")/borrowed.pth"
    touch "$OLD/.installed"
fi
if [ $# -eq 0 ]; then
    set -- tests/pipelines tests/docs tests/models tests/attributes tests/faces/test_parsing.py tests/test_loading.py \
        tests/test_publishing.py tests/test_repositories.py tests/test_requirements.py tests/training/test_components.py
fi
"$OLD/bin/python" -c 'import diffusers, transformers; print("diffusers", diffusers.__version__, "transformers", transformers.__version__)'
exec "$OLD/bin/python" -m pytest "$@"
