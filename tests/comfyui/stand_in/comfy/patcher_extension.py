"""ComfyUI's module of this name, as far as our nodes use it."""


class CallbacksMP:
    ON_DETACH = "on_detach_after"
