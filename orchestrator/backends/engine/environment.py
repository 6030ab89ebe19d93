"""The environment of the engine's process: what programs need to run, and no secrets."""

import re
from collections.abc import Mapping

_NAMES = (
    *("HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER"),
    *("XDG_CACHE_HOME", "XDG_RUNTIME_DIR"),
    *("DYLD_FALLBACK_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LD_LIBRARY_PATH", "LD_PRELOAD"),
    *("PYTHONDONTWRITEBYTECODE", "PYTHONHOME", "PYTHONNOUSERSITE", "PYTHONPATH"),
    *("PYTHONPYCACHEPREFIX", "PYTHONUSERBASE"),
    *("NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_VISIBLE_DEVICES"),
)
# The locale, llama.cpp's own, its threads, and the drivers of graphics cards.
_PREFIXES = (
    *("LC_", "GGML_", "GOMP_", "KMP_", "MKL_", "OMP_", "OPENBLAS_", "MALLOC_"),
    *("CUDA_", "GPU_", "HIP_", "HSA_", "ROCR_", "MESA_", "RADV_", "VK_", "ONEAPI_", "SYCL_", "ZE_"),
)
_SECRET = re.compile("KEY|TOKEN|SECRET|PASS|CREDENTIAL", re.IGNORECASE)


def for_engine(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the part of ``environ`` that the engine's process is given.

    It runs native code on other people's prompts and files, so a key that it never had is one
    that it can't give away.
    """
    return {name: value for name, value in environ.items() if _is_allowed(name)}


def _is_allowed(name: str) -> bool:
    return name in _NAMES or (name.startswith(_PREFIXES) and not _SECRET.search(name))
