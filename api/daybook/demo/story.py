"""Story is what happened in the sample application: weeks of activity, the same each time for the same last moment.

It sends nothing to a database: it says which transaction the application makes, when, and who asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from heapq import merge
from random import Random
from typing import Any, Literal
from uuid import UUID

from . import application as app
from . import words

DAYS = 75
FIRST_WORKSPACE = "acme"
OTHER_WORKSPACE = "globex"
LEVELS = ("view", "comment", "edit")
ROLES = {"admin": "Administrator", "steward": "Data steward", "editor": "Editor", "viewer": "Viewer"}

Statement = tuple[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Actor:
    """Whom the application names for a transaction."""

    id: str
    name: str
    type: Literal["user", "service"] = "user"
    ip: str | None = None
    user_agent: str | None = None


@dataclass(frozen=True, slots=True)
class Activity:
    """One transaction of the application; without an actor it is the application's own, `system`."""

    moment: datetime
    statements: Sequence[Statement]
    actor: Actor | None = None
    request_id: str | None = None
    reason: str | None = None
    metadata: dict[str, Any] | None = None


@dataclass(slots=True)
class Document:
    """A document as the application knows it; `permissions` is the level of each member."""

    id: UUID
    title: str
    status: str = "draft"
    is_archived: bool = False
    permissions: dict[str, str] = field(default_factory=dict)


def tell(last: datetime) -> Iterator[Activity]:
    """Everything that happened in both workspaces in the DAYS days before `last`, oldest first."""
    first_day = (last - timedelta(days=DAYS)).date()
    yield Activity(_at(first_day, 6), [(app.ROLE_MADE, role) for role in ROLES.items()])
    acme = Workspace(FIRST_WORKSPACE, "Acme Analytics", words.ACME, words.TABLES, workday=95, weekend=18)
    globex = Workspace(OTHER_WORKSPACE, "Globex Research", words.GLOBEX, words.TABLES[:3], workday=12, weekend=2)
    told = (workspace.activities(first_day, last) for workspace in (acme, globex))
    yield from merge(*told, key=lambda activity: activity.moment)


def _at(day: date, hour: float) -> datetime:
    return datetime.combine(day, time(), UTC) + timedelta(hours=hour)


class Workspace:
    """One workspace as its application knows it, so that each next transaction fits what is there.

    `people` maps names to job titles; `workday` and `weekend` are the usual number of things that they do in a day.
    """

    def __init__(
        self, workspace_id: str, name: str, people: dict[str, str], tables: Sequence[str], *, workday: int, weekend: int
    ) -> None:
        self.id = workspace_id
        self.name = name
        self.random = Random(f"daybook {workspace_id}")
        self.workday = workday
        self.weekend = weekend
        self.titles = people
        self.members = [self._member(person) for person in people]
        self.crawler = Actor(f"{workspace_id}-crawler", "Warehouse crawler", "service", user_agent="crawler/4.2")
        self.roles: dict[str, str] = {}
        self.documents = [Document(self._uuid(), title) for title in words.DOCUMENTS[: 8 * len(people)]]
        self.dashboards = list(words.DASHBOARDS[: 2 * len(people)])
        self.datasets = [f"{workspace_id}.{area}.{table}" for area in words.AREAS for table in tables]
        # What people do, and how often.
        self.actions: dict[Callable[[datetime], Iterable[Statement]], int] = {
            self.describe_document: 22,
            self.edit_document: 20,
            self.describe_column: 12,
            self.describe_dashboard: 8,
            self.describe_dataset: 6,
            self.share_document: 9,
            self.share_dashboard: 6,
            self.change_share: 5,
            self.end_share: 6,
            self.change_role: 4,
            self.create_document: 3,
            self.archive_document: 2,
            self.restore_document: 1,
            self.delete_document: 1,
            self.rename_dashboard: 2,
            self.change_dashboard: 3,
            self.certify_dataset: 3,
            self.change_member: 2,
            self.tag_documents: 1,
            self.hand_over_documents: 1,
            self.export_dashboard: 2,
        }

    def activities(self, first_day: date, last: datetime) -> Iterator[Activity]:
        """What happens here from the first day until the last moment, oldest first."""
        yield from self.opening(first_day)
        for number in range(1, DAYS + 1):
            for activity in self.day(first_day + timedelta(days=number), DAYS - number):
                if activity.moment >= last:
                    return
                yield activity

    # The first day: what the workspace starts with

    def opening(self, day: date) -> Iterator[Activity]:
        """The workspace is made and filled from what there was before."""
        admin, *_ = self.members
        yield Activity(_at(day, 7), [(app.WORKSPACE_MADE, (self.id, self.name))], reason="Sign-up")
        people = {
            "id": [member.id for member in self.members],
            "name": [member.name for member in self.members],
            "email": [f"{member.id}@{self.id}.example" for member in self.members],
            "title": [self.titles[member.name] for member in self.members],
            "token": [self._token() for _ in self.members],
        }
        members: Statement = (app.MEMBERS_IMPORTED, (self.id, *people.values()))
        yield self._by(admin, _at(day, 8), [members], reason="Import from the staff directory")
        for position, member in enumerate(self.members):
            self.roles[member.id] = role = ("admin", "steward", "editor", "editor", "viewer")[min(position, 4)]
            moment = _at(day, 8.2) + timedelta(seconds=40 * position)
            yield self._by(admin, moment, [(app.ROLE_GIVEN, (self.id, member.id, role))])
        yield self._by(self.crawler, _at(day, 9), self._import_datasets(_at(day, 9)), reason="First crawl")
        pages = {
            "id": [document.id for document in self.documents],
            "title": [document.title for document in self.documents],
            "owner": [self._anyone().id for _ in self.documents],
        }
        documents: Statement = (app.DOCUMENTS_IMPORTED, (self.id, _at(day, 10), *pages.values()))
        yield self._by(admin, _at(day, 10), [documents], reason="Import from the old wiki")
        for position, dashboard in enumerate(self.dashboards):
            moment = _at(day, 11) + timedelta(seconds=90 * position)
            owner = self._anyone()
            yield self._by(owner, moment, [(app.DASHBOARD_CREATED, (self.id, dashboard, owner.id, moment))])

    def _import_datasets(self, moment: datetime) -> Iterator[Statement]:
        owners = [self._anyone().id for _ in self.datasets]
        costs = [self.random.randrange(200, 90000) / 100 for _ in self.datasets]
        yield app.DATASETS_IMPORTED, (self.id, moment, self.datasets, owners, costs)
        columns = [(dataset, name) for dataset in self.datasets for name in self._columns()]
        datasets, names = ([column[part] for column in columns] for part in (0, 1))
        yield app.COLUMNS_IMPORTED, (self.id, datasets, names, [words.COLUMNS[name] for name in names])

    def _columns(self) -> list[str]:
        others = [name for name in words.COLUMNS if name not in words.COLUMNS_OF_ALL]
        return [*words.COLUMNS_OF_ALL, *self.random.sample(others, self.random.randint(3, 7))]

    # A day: what runs at night, and what people do

    def day(self, day: date, days_left: int) -> Iterator[Activity]:
        """Everything of one day; the rare things fall due by the number of days that are left after it."""
        yield Activity(_at(day, 1.5), list(self.expire_shares(_at(day, 1.5))), reason="Expired")
        yield self._by(self.crawler, _at(day, 3), self.crawl(_at(day, 3)), metadata={"run": DAYS - days_left})
        if days_left % 28 == 6:
            yield self._by(self.members[2], _at(day, 6.5), self.state_retention(), reason="Data protection review")
            yield self._by(self.members[0], _at(day, 6.7), self.mark_reviewed(_at(day, 6.7)), reason="Monthly review")
        count = self.weekend if day.weekday() > 4 else self.workday
        count = round(count * self.random.uniform(0.8, 1.2))
        for hour in sorted(self.random.triangular(7, 19.5, 10.5) for _ in range(count)):
            yield self.act(_at(day, hour))

    def act(self, moment: datetime) -> Activity:
        """Somebody does something, as often as it is done in offices."""
        statements: list[Statement] = []
        while not statements:
            (action,) = self.random.choices(list(self.actions), list(self.actions.values()))
            statements = list(action(moment))
        reason = self.random.choice(words.REASONS) if self._chance(0.15) else None
        return self._by(self._anyone(), moment, statements, reason=reason)

    def expire_shares(self, moment: datetime) -> Iterator[Statement]:
        """The application's own job, which names no actor."""
        yield app.DOCUMENT_SHARES_EXPIRED, (self.id, moment)
        yield app.DASHBOARD_SHARES_EXPIRED, (self.id, moment)

    def crawl(self, moment: datetime) -> Iterator[Statement]:
        stale = self.random.sample(self.datasets, len(self.datasets) // 5)
        yield app.DATASETS_CRAWLED, (stale, moment, self.id)

    def state_retention(self) -> Iterator[Statement]:
        yield app.COLUMNS_GIVEN_RETENTION, (f"Kept for {self.random.randint(2, 120)} months.", self.id)

    def mark_reviewed(self, moment: datetime) -> Iterator[Statement]:
        yield app.DOCUMENTS_REVIEWED, (f"reviewed-{moment:%Y-%m}", moment, self.id)

    # What people do. Where nothing of the kind can be done at the moment, there is no statement.

    def describe_document(self, moment: datetime) -> Iterator[Statement]:
        document = self._document()
        yield app.DOCUMENT_DESCRIBED, (self._text(document.title), moment, document.id)

    def edit_document(self, moment: datetime) -> Iterator[Statement]:
        document = self._document()
        if self._chance(0.4):
            document.status = self._other(("draft", "in review", "published"), document.status)
            yield app.DOCUMENT_MOVED_ON, (document.status, moment, document.id)
        elif self._chance(0.5) and document is not self.documents[0]:
            document.title = f"{document.title.split(' (')[0]} ({self.random.choice(words.ADDITIONS)} {moment:%d %b})"
            yield app.DOCUMENT_RENAMED, (document.title, moment, document.id)
        else:
            tags = sorted(self.random.sample(words.TAGS, self.random.randint(1, 4)))
            yield app.DOCUMENT_TAGGED, (tags, moment, document.id)

    def create_document(self, moment: datetime) -> Iterator[Statement]:
        title = f"{self.random.choice(words.SUBJECTS)} {self.random.choice(words.PURPOSES)}, {moment:%d %B}"
        document = Document(self._uuid(), title)
        self.documents.append(document)
        yield app.DOCUMENT_CREATED, (self.id, document.id, title, self._anyone().id, moment)

    def archive_document(self, moment: datetime) -> Iterator[Statement]:
        document = self._document()
        if document is not self.documents[0]:
            document.is_archived = True
            yield app.DOCUMENT_ARCHIVED, (moment, moment, document.id)

    def restore_document(self, moment: datetime) -> Iterator[Statement]:
        if archived := [document for document in self.documents if document.is_archived]:
            document = self.random.choice(archived)
            document.is_archived = False
            yield app.DOCUMENT_ARCHIVED, (None, moment, document.id)

    def delete_document(self, moment: datetime) -> Iterator[Statement]:
        if archived := [document for document in self.documents if document.is_archived]:
            document = self.random.choice(archived)
            self.documents.remove(document)
            yield app.DOCUMENT_SHARES_ENDED, (document.id,)
            yield app.DOCUMENT_DELETED, (document.id,)

    def tag_documents(self, moment: datetime) -> Iterator[Statement]:
        yield app.DOCUMENTS_OF_OWNER_TAGGED, (self.random.choice(words.TAGS), moment, self._anyone().id)

    def hand_over_documents(self, moment: datetime) -> Iterator[Statement]:
        before, after = self.random.sample(self.members, 2)
        yield app.DOCUMENTS_HANDED_OVER, (after.id, moment, before.id, self.random.choice(("draft", "published")))

    def share_document(self, moment: datetime) -> Iterator[Statement]:
        document, member = self._document(), self._anyone()
        if member.id not in document.permissions:
            document.permissions[member.id] = level = self.random.choice(LEVELS)
            yield app.DOCUMENT_SHARED, (self.id, document.id, member.id, level, self._expiry(moment))

    def change_share(self, moment: datetime) -> Iterator[Statement]:
        document = self._document()
        if document.permissions:
            member_id, level = self.random.choice(list(document.permissions.items()))
            document.permissions[member_id] = level = self._other(LEVELS, level)
            yield app.DOCUMENT_SHARE_CHANGED, (level, document.id, member_id)

    def end_share(self, moment: datetime) -> Iterator[Statement]:
        document = self._document()
        if document.permissions:
            member_id = self.random.choice(list(document.permissions))
            del document.permissions[member_id]
            yield app.DOCUMENT_SHARE_ENDED, (document.id, member_id)

    def share_dashboard(self, moment: datetime) -> Iterator[Statement]:
        everybody = [member.id for member in self.members]
        team = self.random.sample(everybody, self.random.randint(3, len(everybody)) if self._chance(0.2) else 1)
        dashboard = self.random.choice(self.dashboards)
        yield app.DASHBOARD_SHARED, (self.random.choice(LEVELS), self._expiry(moment), team, self.id, dashboard)

    def describe_dashboard(self, moment: datetime) -> Iterator[Statement]:
        dashboard = self.random.choice(self.dashboards)
        yield app.DASHBOARD_DESCRIBED, (self._text(dashboard), moment, self.id, dashboard)

    def rename_dashboard(self, moment: datetime) -> Iterator[Statement]:
        position = self.random.randrange(len(self.dashboards))
        before = self.dashboards[position]
        name = f"{before.split(', ')[0]}, {self.random.choice(words.ADDITIONS)} {moment:%d %B %H:%M}"
        self.dashboards[position] = name
        yield app.DASHBOARD_RENAMED, (name, moment, self.id, before)

    def change_dashboard(self, moment: datetime) -> Iterator[Statement]:
        minutes = self.random.choice((5, 15, 30, 60, 240, 1440))
        yield app.DASHBOARD_CHANGED, (minutes, moment, self.id, self.random.choice(self.dashboards))

    def export_dashboard(self, moment: datetime) -> Iterator[Statement]:
        form = self.random.choice(("pdf", "csv", "xlsx"))
        yield app.DASHBOARD_EXPORTED, (form, self.id, self.random.choice(self.dashboards))

    def describe_dataset(self, moment: datetime) -> Iterator[Statement]:
        dataset = self.random.choice(self.datasets)
        yield app.DATASET_DESCRIBED, (self._text(dataset.rpartition(".")[2]), moment, dataset)

    def describe_column(self, moment: datetime) -> Iterator[Statement]:
        column = self.random.choice(words.COLUMNS_OF_ALL)
        yield app.COLUMN_DESCRIBED, (self._text(column.replace("_", " ")), self.random.choice(self.datasets), column)

    def certify_dataset(self, moment: datetime) -> Iterator[Statement]:
        yield app.DATASET_CERTIFIED, (moment, self.random.choice(self.datasets))

    def change_role(self, moment: datetime) -> Iterator[Statement]:
        member_id = self.random.choice(self.members[1:]).id
        role = self.roles.get(member_id)
        if role is not None and self._chance(0.4):
            del self.roles[member_id]
            yield app.ROLE_TAKEN, (member_id,)
            return
        self.roles[member_id] = wanted = self._other(tuple(ROLES), role)
        if role is None:
            yield app.ROLE_GIVEN, (self.id, member_id, wanted)
        else:
            yield app.ROLE_CHANGED, (wanted, member_id)

    def change_member(self, moment: datetime) -> Iterator[Statement]:
        member = self._anyone()
        if self._chance(0.5):
            yield app.MEMBER_TOKEN_CHANGED, (self._token(), member.id)
        else:
            title = f"{self.random.choice(words.RANKS)} {self.titles[member.name]}".strip()
            yield app.MEMBER_TITLE_CHANGED, (title, member.id)

    # Chance

    def _by(
        self,
        actor: Actor,
        moment: datetime,
        statements: Iterable[Statement],
        *,
        reason: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Activity:
        request_id = f"req-{self.random.getrandbits(48):012x}"
        return Activity(moment, list(statements), actor, request_id, reason, metadata)

    def _member(self, name: str) -> Actor:
        # Addresses for documentation (RFC 5737).
        ip = f"203.0.113.{self.random.randint(1, 254)}"
        return Actor(name.lower().replace(" ", "."), name, "user", ip, self.random.choice(words.USER_AGENTS))

    def _anyone(self) -> Actor:
        return self.random.choice(self.members)

    def _document(self) -> Document:
        # The first document is the one that everybody works on.
        shown = [document for document in self.documents if not document.is_archived]
        return shown[0] if self._chance(0.04) else self.random.choice(shown)

    def _other(self, choices: Sequence[str], current: str | None) -> str:
        return self.random.choice([choice for choice in choices if choice != current])

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def _text(self, subject: str) -> str:
        sentences = self.random.sample(words.SENTENCES, self.random.randint(1, 3))
        return " ".join(sentence.format(subject=subject, number=self.random.randint(2, 90)) for sentence in sentences)

    def _expiry(self, moment: datetime) -> datetime | None:
        return moment + timedelta(days=self.random.randint(3, 30)) if self._chance(0.3) else None

    def _uuid(self) -> UUID:
        return UUID(int=self.random.getrandbits(128), version=4)

    def _token(self) -> str:
        return f"{self.random.getrandbits(96):024x}"
