"""Results in databases: PostgreSQL, MySQL, MariaDB and SQLite, and MongoDB."""
