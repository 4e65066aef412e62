-- The spool on disk, format 1. Times are milliseconds since the Unix epoch.
-- `application_id` and `user_version` are set by disk/folder.rs, in the file that this makes.

-- Names of sources, secrets, targets, outcomes and operators, spelled once.
CREATE TABLE name (
    id   INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE
) STRICT;

-- What is owed, held or remembered. The row is also the mark for duplicates, so it outlives its
-- content when that is dropped early to make room.
CREATE TABLE notification (
    seq         INTEGER PRIMARY KEY, -- from `position`: in order of acceptance, never used twice
    source      INTEGER NOT NULL,
    digest      BLOB    NOT NULL,    -- SHA-256 of what was signed; its first 16 bytes are the id; sealed, if there are keys
    signed_at   INTEGER NOT NULL,    -- the sender's timestamp as a number; 0 if it is none
    verdict     INTEGER NOT NULL,    -- the status that the sender was answered with
    quarantine  TEXT,                -- the reason, while an operator has not let go of it
    received_at INTEGER NOT NULL,
    pending     INTEGER NOT NULL,    -- deliveries still to be made
    dead        INTEGER NOT NULL,    -- deliveries that gave up
    settled_at  INTEGER,             -- nothing pending, dead or in quarantine since then
    emptied     INTEGER NOT NULL DEFAULT 0 -- 1: content and deliveries were dropped to make room
) STRICT;
-- The timestamp is part of what the digest is of, so it adds nothing to what is unique. It keeps the
-- marks of one hour together: alone, each digest would change a page of its own in every commit.
CREATE UNIQUE INDEX mark ON notification (source, signed_at, digest);
CREATE INDEX settled ON notification (emptied, settled_at) WHERE settled_at IS NOT NULL;
CREATE INDEX quarantined ON notification (seq, quarantine) WHERE quarantine IS NOT NULL;

-- What came, as it came. Written once: settling rewrites small rows only.
CREATE TABLE content (
    seq          INTEGER PRIMARY KEY,
    secret       INTEGER NOT NULL,
    sealed_by    TEXT,             -- name of the key; NULL: nothing is sealed
    seal         BLOB,             -- nonce, sealed header fields, tag: see sealed.rs
    generated_at TEXT    NOT NULL, -- empty if sealed, like the two below
    signature    TEXT    NOT NULL,
    content_type TEXT,
    body         BLOB    NOT NULL
) STRICT;

-- The keys that contents and marks are sealed with; none: nothing is. See disk/seal.rs.
CREATE TABLE key (
    name  TEXT NOT NULL UNIQUE,
    marks BLOB NOT NULL -- the key of the marks, sealed by this one; opens with no other
) STRICT;

-- One notification owed to one target.
CREATE TABLE delivery (
    seq              INTEGER NOT NULL,
    target           INTEGER NOT NULL,
    state            INTEGER NOT NULL, -- 0 pending, 1 delivered, 2 dead letter, 3 discarded
    attempts         INTEGER NOT NULL,
    due_at           INTEGER NOT NULL,
    owed_since       INTEGER, -- when it was released or last replayed; NULL: since acceptance
    replayed_after   INTEGER, -- attempts made before it was last replayed, if it ever was
    resume_at        INTEGER, -- when a replay came before a scheduled attempt: that attempt's time
    first_attempt_at INTEGER,
    history          BLOB,    -- the latest events, as disk/history.rs writes them
    PRIMARY KEY (seq, target)
) STRICT, WITHOUT ROWID;
-- What was never tried keeps apart: a new notification is found at once, whatever the backlog.
CREATE INDEX due ON delivery (target, attempts > 0, due_at) WHERE state = 0;
CREATE INDEX dead ON delivery (seq, target) WHERE state = 2;

-- What ever happened to a target's deliveries. These only grow; disk/ledger.rs says what must be there.
CREATE TABLE ledger (
    target              INTEGER PRIMARY KEY,
    accepted            INTEGER NOT NULL,
    delivered           INTEGER NOT NULL,
    dead_lettered       INTEGER NOT NULL,
    discarded           INTEGER NOT NULL,
    replayed_delivered  INTEGER NOT NULL,
    replayed_dead       INTEGER NOT NULL,
    replayed_discarded  INTEGER NOT NULL,
    forgotten_delivered INTEGER NOT NULL,
    forgotten_discarded INTEGER NOT NULL
) STRICT;

-- An operator's order between its first commit and its last. See orders/errand.rs.
CREATE TABLE errand (
    id       INTEGER PRIMARY KEY,
    wording  TEXT    NOT NULL, -- what to do, and to which notifications; JSON
    given_by TEXT    NOT NULL,
    given_at INTEGER NOT NULL,
    reached  INTEGER NOT NULL, -- notifications up to here are done with
    matched  INTEGER NOT NULL, -- so far
    done     INTEGER NOT NULL
) STRICT;

-- One row: the number that the next notification gets.
CREATE TABLE position (
    next_seq INTEGER NOT NULL
) STRICT;
INSERT INTO position VALUES (1);
