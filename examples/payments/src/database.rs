//! The tables, and the database that they are in: a throw-away cluster, or one that was named.

use std::error::Error;

use onlyonce_axum::TransactionalLayer;
use onlyonce_outbox::inbox;
use onlyonce_test::postgres::{Cluster, Options, find_bin_dirs};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool, raw_sql};

use crate::form::Form;

/// The key is written down for the balance sheet alone: no constraint is on it.
const TABLES: &str = "
    create table payments (
        id      bigint generated always as identity primary key,
        key     text   not null,
        account text   not null,
        amount  bigint not null
    );
    create table ledger_entries (
        id      bigint generated always as identity primary key,
        payment bigint not null,
        amount  bigint not null
    )";

/// A Postgres server that is there for this run, and deleted afterwards.
///
/// # Errors
/// Where none is installed.
pub(crate) fn throw_away() -> Result<Cluster, Box<dyn Error>> {
    let dirs = find_bin_dirs();
    let dir = dirs.first().ok_or(
        "no Postgres server is installed here: install the package `postgresql`, or name a database with \
         --database postgres://…",
    )?;
    // It is killed too: what it confirmed has to be on disk.
    Ok(Options::default().fsync(true).start(dir)?)
}

/// Makes a schema for one form's run, with everything in it, and gives the URL that leads there.
///
/// # Errors
/// Where the database fails.
pub(crate) async fn prepare(url: &str, form: Form, run: &str) -> Result<String, Box<dyn Error>> {
    let schema = format!("payments_{}_{run}", form.name().replace('-', "_"));
    let separator = if url.contains('?') { '&' } else { '?' };
    let there = format!("{url}{separator}options=-csearch_path%3D{schema}");
    // A pool would try for half a minute, and then only say that it is over.
    let connected = PgConnection::connect(&there).await;
    connected.map_err(|error| format!("the database cannot be used: {error}"))?;
    let pool = connect(&there)?;
    let made = format!("create schema {schema}; {TABLES}");
    raw_sql(sqlx::AssertSqlSafe(made)).execute(&pool).await?;
    TransactionalLayer::new(pool.clone()).migrate().await?;
    inbox::migrate(&mut *pool.acquire().await?).await?;
    pool.close().await;
    Ok(there)
}

/// A pool that connects when it is first used: the server may be down at the moment.
///
/// # Errors
/// Where the URL is none.
pub(crate) fn connect(url: &str) -> Result<PgPool, sqlx::Error> {
    PgPoolOptions::new().max_connections(8).connect_lazy(url)
}
