"""Errors of the kernel compiler."""


class CompileException(Exception):
    """Source that does not compile."""

    def __init__(self, msg, source, name, options, backend="nvrtc"):
        self._msg, self.source, self.name, self.options, self.backend = msg, source, name, options, backend
        super().__init__()

    def __str__(self):
        return self._msg

    __repr__ = get_message = __str__
