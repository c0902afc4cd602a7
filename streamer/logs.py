"""Which log the settings mean. Apart from `app`, so that commands that run no model need not load torch."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from streamer.log.base import Log
from streamer.settings import KafkaSettings, LogSettings, MemorySettings, SqliteSettings, plain


def log_of(settings: LogSettings) -> Log:
    """The log that the settings describe, not yet open. Only the module of the one that is meant is imported."""
    match settings:
        case SqliteSettings():
            from streamer.log.sqlite import SqliteLog

            return SqliteLog(settings.path)
        case MemorySettings():
            from streamer.log.memory import MemoryLog

            return MemoryLog()
        case KafkaSettings():
            return _kafka(settings)
        case _:
            assert_never(settings)


def _kafka(settings: KafkaSettings) -> Log:
    from streamer.log.kafka import KafkaLog
    from streamer.log.kafka_connection import KafkaOptions

    return KafkaLog(
        KafkaOptions(
            bootstrap_servers=settings.bootstrap_servers,
            security_protocol=settings.security_protocol,
            sasl_mechanism=settings.sasl_mechanism,
            sasl_username=settings.username,
            sasl_password=plain(settings.password),
            ssl_ca_file=_path(settings.ssl_cafile),
            ssl_cert_file=_path(settings.ssl_certfile),
            ssl_key_file=_path(settings.ssl_keyfile),
            ssl_key_password=plain(settings.ssl_key_password),
            request_timeout_s=settings.request_timeout_s,
            session_timeout_s=settings.session_timeout_s,
            rebalance_timeout_s=settings.rebalance_timeout_s,
            compression=settings.compression,
            replication_factor=settings.replication_factor,
            group_instance_id=settings.group_instance_id,
            delivery=settings.delivery,
        )
    )


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text).expanduser()
