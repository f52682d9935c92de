//! Another server takes over, under the same name: the old one is a replica by then, and keeps its connections.

use onlyonce_outbox::sinks::RedisStreams;
use onlyonce_outbox::{Event, Sink};
use onlyonce_test::event::within;
use onlyonce_test::redis::Server;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::envelope;

/// A place from which connections go where it says at that time.
async fn name_of(server: &Server) -> (String, watch::Sender<std::net::SocketAddr>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let (place, at) = watch::channel(server.addr());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let place = *at.borrow();
            let mut server = TcpStream::connect(place).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
        }
    });
    (url, place)
}

#[tokio::test]
async fn a_server_that_became_a_replica_is_looked_up_again() {
    let (old, new) = (Server::start().unwrap(), Server::start().unwrap());
    let (url, place) = name_of(&old).await;
    let sink = RedisStreams::to(&url, "/shop").unwrap();
    let batch = [envelope(&Event::new("payments", 1))];
    within("the first", sink.publish(&batch)).await[0]
        .as_ref()
        .unwrap();
    place.send_replace(new.addr());
    let port = new.addr().port();
    old.run(&format!("REPLICAOF 127.0.0.1 {port}")).unwrap();
    let refused = within("the second", sink.publish(&batch)).await;
    assert!(!refused[0].as_ref().unwrap_err().is_dead(), "{refused:?}");
    within("the third", sink.publish(&batch)).await[0]
        .as_ref()
        .unwrap();
    assert!(new.run("XLEN payments").unwrap().starts_with(":1"));
}
