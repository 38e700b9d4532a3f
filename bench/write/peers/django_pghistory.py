"""Set up django-pghistory in a database: `python -m bench.write.peers.django_pghistory URL row|statement`.

Follows https://django-pghistory.readthedocs.io/en/latest/event_tracking/ (insert, update and delete events) and
https://django-pghistory.readthedocs.io/en/latest/performance/ (statement-level triggers). Everything else is its
default: the event table holds whole rows, with indexes on the object and the context, and a row of context for each
request. Its own migrations and its own triggers are installed; the tables that it tracks are there already.
"""

import sys
from pathlib import Path

import django
import pghistory
import pgtrigger
from django.apps import AppConfig
from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.management import call_command
from django.db import connection, models
from psycopg.conninfo import conninfo_to_dict

from bench.write.tables import DOCUMENT, DOCUMENT_COLUMNS, WIDE, WIDE_COLUMNS


class Bench(AppConfig):  # type: ignore[misc]
    """The application that is audited: pghistory wants an installed one."""

    name = __name__
    label = "bench"
    path = str(Path(__file__).parent)


sys.modules[f"{__name__}.models"] = sys.modules[__name__]  # There it leaves the event models.
parts = conninfo_to_dict(sys.argv[1])
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            **{key.upper().replace("DBNAME", "NAME"): parts.get(key) for key in ("dbname", "user", "host", "port")},
        }
    },
    INSTALLED_APPS=["django.contrib.contenttypes", "pgtrigger", "pghistory", f"{__name__}.Bench"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()


def field(definition: str) -> models.Field:
    """Return the model field for a column of the tables."""
    kind, _, rest = definition.partition(" ")
    if rest == "primary key":
        return models.IntegerField(primary_key=True)
    nothing = {"null": not rest}
    made = {
        "integer": lambda: models.IntegerField(**nothing),
        "text": lambda: models.TextField(**nothing),
        "uuid": lambda: models.UUIDField(**nothing),
        "numeric": lambda: models.DecimalField(max_digits=20, decimal_places=2, **nothing),
        "text[]": lambda: ArrayField(models.TextField(), **nothing),
        "jsonb": lambda: models.JSONField(**nothing),
        "timestamptz": lambda: models.DateTimeField(**nothing),
    }
    return made[kind]()


def track(table: str, columns: dict[str, str], level: pgtrigger.Level) -> None:
    """Track a table that is there: its model, its event table, its triggers."""
    meta = type("Meta", (), {"app_label": "bench", "db_table": table, "managed": False})
    model = type(
        table.capitalize(),
        (models.Model,),
        {"__module__": __name__, "Meta": meta, **{name: field(definition) for name, definition in columns.items()}},
    )
    pghistory.track(
        pghistory.InsertEvent(), pghistory.UpdateEvent(), pghistory.DeleteEvent(), level=level, meta={"managed": True}
    )(model)
    (event,) = (known for known in pghistory.models.Event.__subclasses__() if known.pgh_tracked_model is model)
    with connection.schema_editor() as editor:
        editor.create_model(event)


level = {"row": pgtrigger.Row, "statement": pgtrigger.Statement}[sys.argv[2]]
call_command("migrate", verbosity=0)
track(DOCUMENT, DOCUMENT_COLUMNS, level)
track(WIDE, WIDE_COLUMNS, level)
for model, trigger in pgtrigger.registered():
    if model._meta.app_label == "bench":
        trigger.install(model)
