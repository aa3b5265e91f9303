"""Ask a mediant server where a language model computes something.

    import mediant
    lab = mediant.Client()  # or Client("http://server:8080", key="…"); MEDIANT_SERVER and MEDIANT_KEY
    trace = lab.trace("The Eiffel Tower is in the city of", subject="Eiffel Tower", target=" Paris")
    trace.df, trace.plot()
"""

from ._async import AsyncClient, AsyncJob
from ._core import Event
from ._sync import Client, Job
from .errors import (
    Busy,
    ConnectionLost,
    InvalidRequest,
    JobFailed,
    LintWarning,
    MediantError,
    Missing,
    NotFound,
    NotReady,
    ServerError,
    Unauthorized,
)
from .results import Activation, Lens, Patch, Result, Run, Sweep, Texts, Trace, read_cases

__all__ = [
    "Activation",
    "AsyncClient",
    "AsyncJob",
    "Busy",
    "Client",
    "ConnectionLost",
    "Event",
    "InvalidRequest",
    "Job",
    "JobFailed",
    "Lens",
    "LintWarning",
    "MediantError",
    "Missing",
    "NotFound",
    "NotReady",
    "Patch",
    "Result",
    "Run",
    "ServerError",
    "Sweep",
    "Texts",
    "Trace",
    "Unauthorized",
    "read_cases",
]
