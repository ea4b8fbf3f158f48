-- SPDX-License-Identifier: Apache-2.0

-- +goose Up
-- offered is 0, or since when boxes of the model are offered this release; there is at most one such for a model.
CREATE TABLE release (
  model   TEXT NOT NULL,
  version TEXT NOT NULL,
  note    BLOB NOT NULL,
  offered BIGINT NOT NULL,
  retired BIGINT NOT NULL,
  added   BIGINT NOT NULL,
  PRIMARY KEY (model, version),
  CHECK (offered = 0 OR retired = 0)
);
CREATE UNIQUE INDEX release_offered ON release (model) WHERE offered <> 0;

-- +goose Down
DROP TABLE release;
