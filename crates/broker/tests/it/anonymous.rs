//! The rights of clients without credentials.

use crate::support::*;
use posthaste_broker::{Anonymous, Client, Credentials, Origin, hash_password};
use posthaste_engine::catalog::{Action, Resource, User};
use posthaste_model::{ConnectionId, Peer};

const POLICIES: [Option<Anonymous>; 5] = [
    None,
    Some(Anonymous::Off),
    Some(Anonymous::Administrator),
    Some(Anonymous::Read { from_anywhere: false }),
    Some(Anonymous::Read { from_anywhere: true }),
];
/// Under each policy, clients of this machine and of another.
const WITHOUT_USERS: [(&str, &str); 5] =
    [("all", "none"), ("none", "none"), ("all", "none"), ("read", "none"), ("read", "read")];
const WITH_USERS: [(&str, &str); 5] =
    [("none", "none"), ("none", "none"), ("all", "none"), ("read", "none"), ("read", "read")];

fn origin(f: &Fixture, policy: Option<Anonymous>, address: &str) -> Origin {
    let listener = format!("{policy:?}");
    if let Some(policy) = policy {
        f.broker.set_anonymous(&listener, policy);
    }
    f.broker.origin("test", &Peer::plain(listener.into(), address.parse().unwrap(), ConnectionId(1)))
}

fn may_do(client: &Client) -> &'static str {
    let may = |action| client.may(action, Resource::Topic, "orders").is_ok();
    match (may(Action::Read), may(Action::Write), may(Action::Configure), client.is_administrator()) {
        (true, true, true, true) => "all",
        (true, false, false, false) => "read",
        (false, false, false, false) => "none",
        other => panic!("{other:?}"),
    }
}

/// A client that is let in, if it is.
async fn client(f: &Fixture, origin: &Origin) -> Option<Client> {
    let principal = f.broker.log_in(origin, Credentials::Anonymous).await.ok();
    assert_eq!(principal.is_some(), f.broker.admits_anonymous(origin));
    Some(f.broker.client(principal?, name("default"), f.broker.next_connection()))
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_without_credentials_may_what_their_listener_says_at_the_moment() {
    let f = Fixture::new().await;
    let mut open = Vec::new();
    let addresses = [("127.0.0.1:1", true), ("[::ffff:127.0.0.1]:1", true), ("192.0.2.1:1", false)];
    for users in [false, true] {
        if users {
            let user = User { password: hash_password(b"secret").unwrap(), ..User::new(name("clerk")) };
            f.client.put_user(user).await.unwrap();
        }
        for (at, policy) in POLICIES.into_iter().enumerate() {
            for (address, here) in addresses {
                let of = |(local, remote)| if here { local } else { remote };
                let (now, later) = (if users { WITH_USERS } else { WITHOUT_USERS }[at], WITH_USERS[at]);
                let client = client(&f, &origin(&f, policy, address)).await;
                assert_eq!(client.as_ref().map_or("none", may_do), of(now), "{policy:?} {address}");
                open.extend(client.map(|client| (client.rights(), client, of(now), of(later))));
            }
        }
    }
    for (rights, client, before, now) in open {
        assert_eq!(may_do(&client), now, "one that was let in before there was a user");
        assert_eq!(client.rights() == rights, before == now);
        assert_eq!(f.broker.may_enter(client.principal(), "default"), now != "none");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_behind_a_proxy_on_this_machine_is_not_of_this_machine() {
    let f = Fixture::new().await;
    let address = "127.0.0.1:1".parse().unwrap();
    let behind = Peer { is_local: false, ..Peer::plain("x".into(), address, ConnectionId(1)) };
    let origin = f.broker.origin("test", &behind);
    assert!(client(&f, &origin).await.is_none());
    let guest = Credentials::Password { user: "guest", password: b"guest" };
    assert!(f.broker.log_in(&origin, guest).await.is_err());
}
