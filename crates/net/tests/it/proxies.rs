//! Who a connection comes from when a proxy tells it.

use crate::support::{Fixture, Talk, in_time};
use posthaste_model::Limits;
use posthaste_net::{Entrance, Listener, Networks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn start(proxies: &[&str]) -> Fixture {
    let proxies = Networks::new(proxies.iter().map(|text| text.parse().unwrap()));
    let entrance = Entrance { proxies, ..Entrance::default() };
    let listener = Listener::bind("lines", "127.0.0.1:0", entrance).await.unwrap();
    Fixture::serve(listener, Limits { handshake_ms_max: 500, ..Limits::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_tells_whose_a_connection_is() {
    let mut fixture = start(&["192.0.2.0/24", "127.0.0.0/8"]).await;
    let version_2 = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[203, 0, 113, 5, 10, 0, 0, 1, 0, 7, 0, 9]];
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    for (header, expect) in [
        (b"PROXY TCP4 203.0.113.5 10.0.0.1 7 9\r\n".to_vec(), "203.0.113.5:7 elsewhere in the clear\n"),
        (version_2.concat(), "203.0.113.5:7 elsewhere in the clear\n"),
        (b"PROXY TCP4 127.0.0.1 127.0.0.1 7 9\r\n".to_vec(), "127.0.0.1:7 here in the clear\n"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "elsewhere in the clear\n"),
        (local, "elsewhere in the clear\n"),
    ] {
        let Talk { mut stream } = fixture.connect().await;
        let own = format!("{} ", stream.local_addr().unwrap());
        stream.write_all(&[&header, &b"who\nclose\n"[..]].concat()).await.unwrap();
        let mut answer = String::new();
        in_time(stream.read_to_string(&mut answer)).await.unwrap();
        // One that tells nothing is known by its own address.
        let answer = answer.strip_prefix(&own).unwrap_or(&answer);
        assert_eq!(answer, format!("{expect}bye\n"), "{}", header.escape_ascii());
    }
    for start in [&b"who\nclose\n"[..], b"PROXY \n", b""] {
        let mut talk = fixture.connect().await;
        talk.stream.write_all(start).await.unwrap();
        talk.expect_end("").await;
    }
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_send_is_the_protocols() {
    let mut fixture = start(&["192.0.2.0/24"]).await;
    let mut talk = fixture.connect().await;
    talk.say("who\n").await;
    let own = talk.stream.local_addr().unwrap();
    talk.expect(&format!("{own} here in the clear\n")).await;
    fixture.stop().await;
}
