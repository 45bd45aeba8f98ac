#!/usr/bin/env bash
# What depends on diffusers and transformers, tested with the oldest diffusers that pyproject.toml allows and a
# transformers of its time:
#
#     bash tests/oldest.sh [OPTION OF PYTEST...]
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
    printf '%s\n' "$(site "$VENV")" "$PWD" > "$(site "$OLD")/borrowed.pth"
    touch "$OLD/.installed"
fi
"$OLD/bin/python" - <<'END'
import diffusers, transformers
print("diffusers", diffusers.__version__, "transformers", transformers.__version__)
END
exec "$OLD/bin/python" -m pytest tests/pipelines tests/docs tests/attributes tests/models \
    tests/faces/test_annotator.py tests/test_anonymizer.py tests/test_generation.py tests/test_errors.py \
    tests/training/test_components.py "$@"
