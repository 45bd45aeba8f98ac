"""Skip the tests of servers where the packages of the extras `service` and `web` are missing."""

from importlib.util import find_spec

NEEDED = {
    "test_gradio_*.py": ("gradio",),
    "test_gradio_browser.py": ("playwright",),
    "test_http_schema.py": ("schemathesis",),
    "test_*.py": ("fastapi", "uvicorn", "prometheus_client"),
}
collect_ignore_glob = [pattern for pattern, packages in NEEDED.items() if not all(map(find_spec, packages))]
