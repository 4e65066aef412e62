-- The spool in PostgreSQL, version 1. Times are milliseconds since the Unix epoch.

-- One row: whose tables these are.
CREATE TABLE format (
    application text    NOT NULL,
    version     integer NOT NULL
);
INSERT INTO format VALUES ('suki-relay', 1);

-- Names of sources, secrets, targets, outcomes and operators, spelled once. Never changed, never undone.
CREATE TABLE name (
    id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    text text   NOT NULL UNIQUE
);

-- The relays at work. What one has claimed is anybody's once its time, by the server's clock, is over.
CREATE TABLE relay (
    id          bigint PRIMARY KEY,
    alive_until bigint NOT NULL
);

-- What is owed, held or remembered. The row is also the mark for duplicates.
CREATE TABLE notification (
    seq         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source      bigint NOT NULL,
    digest      bytea  NOT NULL, -- SHA-256 of what was signed; its first 16 bytes are the id
    signed_at   bigint NOT NULL, -- the sender's timestamp as a number; 0 if it is none
    verdict     bigint NOT NULL, -- the status that the sender was answered with
    quarantine  text,            -- the reason, while an operator has not let go of it
    received_at bigint NOT NULL,
    pending     bigint NOT NULL, -- deliveries still to be made
    dead        bigint NOT NULL, -- deliveries that gave up
    settled_at  bigint           -- nothing pending, dead or in quarantine since then
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02);
CREATE UNIQUE INDEX mark ON notification (source, signed_at, digest);
CREATE INDEX settled ON notification (settled_at) WHERE settled_at IS NOT NULL;
CREATE INDEX quarantined ON notification (seq) WHERE quarantine IS NOT NULL;

-- What came, as it came. Written once: settling rewrites small rows only.
CREATE TABLE content (
    seq          bigint PRIMARY KEY,
    secret       bigint NOT NULL,
    generated_at text   NOT NULL,
    signature    text   NOT NULL,
    content_type text,
    body         bytea  NOT NULL
);

-- One notification owed to one target.
CREATE TABLE delivery (
    seq              bigint NOT NULL,
    target           bigint NOT NULL,
    state            bigint NOT NULL, -- 0 pending, 1 delivered, 2 dead letter, 3 discarded
    attempts         bigint NOT NULL,
    due_at           bigint NOT NULL,
    owed_since       bigint, -- when it was released or last replayed; NULL: since acceptance
    replayed_after   bigint, -- attempts made before it was last replayed, if it ever was
    resume_at        bigint, -- when a replay came before a scheduled attempt: that attempt's time
    first_attempt_at bigint,
    history          bytea,  -- the latest events, as disk/history.rs writes them
    owner            bigint, -- the relay that has claimed it
    PRIMARY KEY (seq, target)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX due ON delivery (target, due_at, seq) WHERE state = 0;
CREATE INDEX owed ON delivery (target, seq) WHERE state = 0;
CREATE INDEX dead ON delivery (seq, target) WHERE state = 2;

-- What ever happened to each target's deliveries: sums over the slots. A slot is written by few relays, so
-- that the others need not wait for their commits.
CREATE TABLE ledger (
    target              bigint NOT NULL,
    slot                bigint NOT NULL,
    accepted            bigint NOT NULL,
    delivered           bigint NOT NULL,
    dead_lettered       bigint NOT NULL,
    discarded           bigint NOT NULL,
    replayed_delivered  bigint NOT NULL,
    replayed_dead       bigint NOT NULL,
    replayed_discarded  bigint NOT NULL,
    forgotten_delivered bigint NOT NULL,
    forgotten_discarded bigint NOT NULL,
    PRIMARY KEY (target, slot)
) WITH (fillfactor = 50);

-- How many notifications stand so: sums over the slots, as above. 0 pending, 1 held, 2 settled; from 10 on
-- in quarantine, by reason.
CREATE TABLE tally (
    kind  bigint NOT NULL,
    slot  bigint NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (kind, slot)
) WITH (fillfactor = 50);

-- An operator's order between its first commit and its last. See orders/errand.rs.
CREATE TABLE errand (
    id       bigint PRIMARY KEY,
    wording  text   NOT NULL, -- what to do, and to which notifications; JSON
    given_by text   NOT NULL,
    given_at bigint NOT NULL,
    reached  bigint NOT NULL, -- notifications up to here are done with
    matched  bigint NOT NULL, -- so far
    done     bigint NOT NULL,
    owner    bigint NOT NULL  -- the relay that is at it, as long as it is heard of
);
