-- SPDX-License-Identifier: Apache-2.0

-- +goose Up
-- One row: the last sequence number given. Its lock orders the writers.
CREATE TABLE seqno (
  id BIGINT PRIMARY KEY CHECK (id = 1),
  n  BIGINT NOT NULL
);
INSERT INTO seqno (id, n) VALUES (1, 0);

-- leaf holds exactly the bytes the log seals; the columns before it are for searching only.
CREATE TABLE audit (
  seq      BIGINT PRIMARY KEY,
  at       BIGINT NOT NULL,
  actor    TEXT NOT NULL,
  action   TEXT NOT NULL,
  object   TEXT NOT NULL,
  session  TEXT NOT NULL,
  code     TEXT NOT NULL,
  leaf     TEXT NOT NULL,
  personal TEXT,
  salt     BYTEA
);
CREATE INDEX audit_object ON audit (object, seq);
CREATE INDEX audit_session ON audit (session, seq) WHERE session <> '';
CREATE INDEX audit_code ON audit (code, seq) WHERE code <> '';

CREATE TABLE outbox (
  seq     BIGINT PRIMARY KEY,
  at      BIGINT NOT NULL,
  kind    TEXT NOT NULL,
  touches TEXT NOT NULL
);

-- One row, written when the inner network is drawn.
CREATE TABLE network (
  id     BIGINT PRIMARY KEY CHECK (id = 1),
  prefix TEXT NOT NULL,
  last   BIGINT NOT NULL CHECK (last >= 0)
);

CREATE TABLE person (
  id       TEXT PRIMARY KEY,
  name     TEXT NOT NULL CHECK (name <> ''),
  language TEXT NOT NULL CHECK (language IN ('fr', 'en')),
  added    BIGINT NOT NULL
);

CREATE TABLE card (
  guid        TEXT PRIMARY KEY,
  person      TEXT NOT NULL REFERENCES person (id),
  certificate BYTEA NOT NULL UNIQUE,
  presence    BYTEA NOT NULL,
  state       TEXT NOT NULL CHECK (state IN ('valid', 'locked', 'revoked')),
  changed     BIGINT NOT NULL,
  added       BIGINT NOT NULL
);
CREATE INDEX card_person ON card (person);

CREATE TABLE box (
  serial      TEXT PRIMARY KEY,
  ek          BYTEA NOT NULL UNIQUE,
  ak          BYTEA UNIQUE,
  device      BYTEA,
  model       TEXT NOT NULL,
  country     TEXT NOT NULL,
  site        TEXT NOT NULL,
  address     TEXT NOT NULL UNIQUE,
  outer_nets  TEXT NOT NULL,
  state       TEXT NOT NULL CHECK (state IN ('registered', 'enrolled', 'retired')),
  added       BIGINT NOT NULL,
  CHECK ((state = 'registered') = (ak IS NULL) OR state = 'retired')
);

CREATE TABLE bubble (
  name      TEXT PRIMARY KEY,
  title     TEXT NOT NULL CHECK (title <> ''),
  colour    BIGINT NOT NULL CHECK (colour >= 0 AND colour <= 16777215),
  address   TEXT NOT NULL,
  account   TEXT NOT NULL,
  countries TEXT NOT NULL,
  opens     BIGINT NOT NULL,
  closes    BIGINT NOT NULL,
  place     BIGINT NOT NULL,
  added     BIGINT NOT NULL
);

CREATE TABLE membership (
  person  TEXT NOT NULL REFERENCES person (id),
  bubble  TEXT NOT NULL REFERENCES bubble (name),
  account TEXT NOT NULL CHECK (account <> ''),
  role    TEXT NOT NULL CHECK (role <> ''),
  starts  BIGINT NOT NULL,
  ends    BIGINT NOT NULL,
  added   BIGINT NOT NULL,
  PRIMARY KEY (person, bubble),
  UNIQUE (bubble, account)
);

CREATE TABLE reference (
  name    TEXT PRIMARY KEY,
  model   TEXT NOT NULL,
  note    BYTEA NOT NULL,
  retired BIGINT NOT NULL,
  added   BIGINT NOT NULL
);

CREATE TABLE lock (
  id      TEXT PRIMARY KEY,
  target  TEXT NOT NULL,
  message TEXT NOT NULL,
  ends    BIGINT NOT NULL,
  lifted  BIGINT NOT NULL,
  added   BIGINT NOT NULL
);
CREATE INDEX lock_target ON lock (target) WHERE lifted = 0;

CREATE TABLE session (
  id             TEXT PRIMARY KEY,
  person         TEXT NOT NULL REFERENCES person (id),
  card           TEXT NOT NULL REFERENCES card (guid),
  box            TEXT NOT NULL REFERENCES box (serial),
  bubble         TEXT NOT NULL,
  gateway        TEXT NOT NULL,
  owner_epoch    BIGINT NOT NULL CHECK (owner_epoch >= 1),
  state          TEXT NOT NULL CHECK (state IN ('requested', 'authorised', 'starting', 'active', 'suspended', 'ending', 'ended')),
  state_deadline BIGINT NOT NULL,
  reason         TEXT NOT NULL,
  started        BIGINT NOT NULL,
  changed        BIGINT NOT NULL,
  CHECK ((state = 'ended') = (state_deadline = 0))
);
CREATE INDEX session_open ON session (state_deadline) WHERE state <> 'ended';
CREATE INDEX session_person ON session (person) WHERE state <> 'ended';

-- +goose Down
DROP TABLE session;
DROP TABLE lock;
DROP TABLE reference;
DROP TABLE membership;
DROP TABLE bubble;
DROP TABLE box;
DROP TABLE card;
DROP TABLE person;
DROP TABLE network;
DROP TABLE outbox;
DROP TABLE audit;
DROP TABLE seqno;
