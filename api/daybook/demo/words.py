"""Words are what people of the sample application write: names, titles and sentences to choose from.

They hold nothing real: no customer, no address, no key.
"""

ACME = {
    "Ada Lovelace": "Head of Data",
    "Grace Hopper": "Platform Engineer",
    "Katherine Johnson": "Data Steward",
    "Edsger Dijkstra": "Analytics Engineer",
    "Mary Jackson": "Finance Analyst",
    "Donald Knuth": "Technical Writer",
    "Barbara Liskov": "Data Architect",
    "Alan Turing": "Research Analyst",
    "Hedy Lamarr": "Marketing Analyst",
    "Tim Berners-Lee": "Product Manager",
    "Margaret Hamilton": "Quality Lead",
    "Dorothy Vaughan": "Team Lead Reporting",
    "Radia Perlman": "Network Analyst",
    "Jean Bartik": "Support Analyst",
}
GLOBEX = {
    "Emmy Noether": "Research Lead",
    "Marie Curie": "Laboratory Manager",
    "Sofja Kowalewskaja": "Data Scientist",
    "Rosalind Franklin": "Data Steward",
    "Lise Meitner": "Analyst",
}

AREAS = ("finance", "sales", "marketing", "product", "support", "people", "logistics", "web")
TABLES = ("orders", "events", "accounts", "targets", "costs", "visits", "contracts")
COLUMNS = {
    "id": "bigint",
    "created_at": "timestamp with time zone",
    "updated_at": "timestamp with time zone",
    "status": "text",
    "customer_id": "bigint",
    "email": "text",
    "country": "character(2)",
    "amount": "numeric(12,2)",
    "currency": "character(3)",
    "channel": "text",
    "campaign": "text",
    "duration_seconds": "integer",
    "score": "real",
    "is_active": "boolean",
    "payload": "jsonb",
    "phone": "text",
}
COLUMNS_OF_ALL = ("id", "created_at", "updated_at", "status")

SUBJECTS = (
    "Revenue",
    "Churn",
    "Pipeline",
    "Onboarding",
    "Pricing",
    "Inventory",
    "Support load",
    "Web traffic",
    "Hiring",
    "Cash flow",
    "Delivery times",
    "Campaigns",
    "Retention",
    "Forecast",
)
PURPOSES = ("notes", "definitions", "runbook", "review", "plan", "playbook", "decision", "FAQ")
DOCUMENTS = tuple(
    f"{subject} {purpose}"
    for purpose in ("KPIs", "glossary", "handbook", "data model", "quality rules", "owners", "sources", "roadmap")
    for subject in SUBJECTS
)
DASHBOARDS = tuple(f"{subject} {kind}" for kind in ("overview", "by region", "weekly") for subject in SUBJECTS)

RANKS = ("Senior", "", "Principal", "Acting", "Interim")
TAGS = ("finance", "gdpr", "kpi", "deprecated", "quarterly", "core", "draft-2", "needs-owner", "verified", "external")
ADDITIONS = ("rev.", "as of", "final", "updated", "for the board")
SENTENCES = (
    "How {subject} is counted, and since when.",
    "Source: the warehouse, loaded every {number} minutes.",
    "Rows younger than {number} days may still change.",
    "Ask the owner before you build on {subject}.",
    "Test accounts are left out; refunds count on the day of the order.",
    "Compared with the ledger on day {number} of each quarter.",
    "{subject}: one row for each customer and day.",
    "Amounts are in euros, converted at the rate of the day.",
    "Numbers before release {number} are estimates.",
    "Replaces the sheet that finance kept by hand.",
    "Missing values mean that the source said nothing, not zero.",
    "Everybody may read {subject}; the steward changes it.",
)
REASONS = (
    "Ticket CAT-1042",
    "Ticket CAT-1077",
    "Quarterly access review",
    "Asked for by the owner",
    "Project ended",
    "New in the team",
    "Correction after audit",
    "Naming convention",
)
USER_AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) AppleWebKit/605.1.15 Version/18.0 Safari/605.1.15",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36",
)
