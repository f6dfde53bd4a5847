-- What an instance starts with unless the settings have a script of their own.
CREATE TABLE customer (
    id   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);
CREATE TABLE invoice (
    id       integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer integer NOT NULL REFERENCES customer,
    amount   numeric(12, 2) NOT NULL CHECK (amount > 0)
);
INSERT INTO customer (name) VALUES ('Ada'), ('Grace'), ('Edsger');
INSERT INTO invoice (customer, amount) SELECT id, 100 * id FROM customer;
