"""What is exported, and where to. The standard variables of OpenTelemetry begin with `OTEL_`."""

import re
from contextlib import suppress
from functools import partial
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, SecretStr

from ..groups import CommaSeparated, Group

PORT = Annotated[int, Field(ge=1, le=65_535)]
RATIO = Annotated[float, Field(ge=0, le=1)]
# OpenTelemetry's SDK logs a header that it cannot read, with its value.
HEADER = re.compile(r" *[\w.-]+ *=[^\"\\;]*", re.ASCII)


def check_endpoint(value: str) -> str:
    """Check a URL. The text of the error never quotes it, since it may have a password."""
    with suppress(ValueError):  # of the address or the port
        parts = urlsplit(value)
        is_address = parts.hostname and parts.port != 0 and not re.search(r"\s", value)
        if is_address and parts.scheme in {"http", "https"} and not parts.query + parts.fragment:
            return value
    raise ValueError("should be a URL such as http://collector:4318")


def check_pairs(value: str) -> str:
    if not all(pair.partition("=")[0].strip() and "=" in pair for pair in value.split(",")):
        raise ValueError("should be like key=value,key=value")
    return value


def check_headers(value: SecretStr) -> SecretStr:
    """Check them. The text of the error never quotes them, since they are secrets."""
    text = value.get_secret_value()
    characters = text + unquote(text)
    is_printable = characters.isascii() and characters.isprintable()
    if not is_printable or not all(map(HEADER.fullmatch, text.split(","))):
        raise ValueError("should be like key=value,key=value, with %20 for a space")
    return value


def check_exporters(values: tuple[str, ...], supported: tuple[str, ...]) -> tuple[str, ...]:
    if not {*values} <= {*supported} or ("none" in values and len(values) > 1):
        *others, last = supported
        raise ValueError(f"should be {', '.join(others)} or {last}")
    return values


Endpoint = Annotated[str, AfterValidator(check_endpoint)]
Headers = Annotated[SecretStr, AfterValidator(check_headers)]
TracesExporters = Annotated[
    CommaSeparated, AfterValidator(partial(check_exporters, supported=("otlp", "console", "none")))
]
MetricsExporters = Annotated[
    CommaSeparated, AfterValidator(partial(check_exporters, supported=("otlp", "none")))
]


class TelemetrySettings(Group):
    # Where Prometheus reads the metrics. Without a port, nothing listens.
    metrics_port: PORT | None = None
    metrics_host: str = "127.0.0.1"


class OtelSettings(Group):
    """Variables that OpenTelemetry's SDK reads, too. It also reads others, which are not checked.

    Nothing is exported without an endpoint.
    """

    exporter_otlp_endpoint: Endpoint | None = None
    exporter_otlp_traces_endpoint: Endpoint | None = None
    exporter_otlp_metrics_endpoint: Endpoint | None = None
    exporter_otlp_headers: Headers | None = None
    exporter_otlp_traces_headers: Headers | None = None
    exporter_otlp_metrics_headers: Headers | None = None
    exporter_otlp_protocol: Literal["http/protobuf"] = "http/protobuf"
    traces_exporter: TracesExporters = ("otlp",)
    metrics_exporter: MetricsExporters = ("otlp",)
    traces_sampler: Literal[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ] = "parentbased_always_on"
    traces_sampler_arg: RATIO = 1.0
    service_name: str | None = None
    resource_attributes: Annotated[str, AfterValidator(check_pairs)] | None = None
    sdk_disabled: bool = False

    @property
    def traces_endpoint(self) -> str | None:
        if "otlp" not in self.traces_exporter:
            return None
        return self.exporter_otlp_traces_endpoint or self._complete("traces")

    @property
    def metrics_endpoint(self) -> str | None:
        if "otlp" not in self.metrics_exporter:
            return None
        return self.exporter_otlp_metrics_endpoint or self._complete("metrics")

    def _complete(self, signal: str) -> str | None:
        endpoint = self.exporter_otlp_endpoint
        return endpoint and f"{endpoint.rstrip('/')}/v1/{signal}"
