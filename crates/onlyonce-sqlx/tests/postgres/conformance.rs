//! The conformance suite: on the distribution's version, on the newest, through PgBouncer, and without groups.

mod distribution {
    use crate::fixture::Postgres;
    use onlyonce_test::postgres::Server;

    async fn postgres() -> Postgres {
        Postgres::on(Server::Default).await
    }

    onlyonce_test::store_conformance!(postgres);
}

mod newest {
    use crate::fixture::Postgres;
    use onlyonce_test::postgres::Server;

    async fn postgres() -> Postgres {
        Postgres::on(Server::Newest).await
    }

    onlyonce_test::store_conformance!(postgres);
}

mod pooled {
    use crate::fixture::Postgres;

    async fn postgres() -> Postgres {
        Postgres::behind_pgbouncer().await
    }

    onlyonce_test::store_conformance!(postgres);
}

mod alone {
    use crate::fixture::Postgres;

    async fn postgres() -> Postgres {
        Postgres::without_groups().await
    }

    onlyonce_test::store_conformance!(postgres);
}
