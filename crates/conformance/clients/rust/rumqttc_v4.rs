//! rumqttc with MQTT 3.1.1.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rumqttc::{AsyncClient, Event, LastWill, MqttOptions, Packet, Publish, QoS};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::checks::{Checks, equal, unique};

const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
const WAIT: Duration = Duration::from_secs(20);

pub async fn run(checks: &mut Checks, address: &str) {
    checks.check("quality of service in both directions (3.1.1)", quality(address)).await;
    checks.check("wildcards and retained messages (3.1.1)", retained(address)).await;
    checks.check("persistent session (3.1.1)", session(address)).await;
    checks.check("will (3.1.1)", will(address)).await;
    checks.check("keep-alive (3.1.1)", keep_alive(address)).await;
}

/// One connection whose event loop runs as a task; ends with an abrupt close when dropped.
struct Client {
    client: AsyncClient,
    packets: UnboundedReceiver<Packet>,
    loop_task: JoinHandle<()>,
    session_present: bool,
    /// Messages that came while something else was awaited.
    early: Vec<Publish>,
}

impl Client {
    async fn connect(address: &str, change: impl FnOnce(&mut MqttOptions)) -> Result<Self> {
        let (host, port) = address.rsplit_once(':').context("no port")?;
        let mut options = MqttOptions::new(unique("rumqttc"), host, port.parse()?);
        options.set_max_packet_size(2_000_000, 2_000_000);
        change(&mut options);
        let (client, mut events) = AsyncClient::new(options, 100);
        let (sender, packets) = mpsc::unbounded_channel();
        let loop_task = tokio::spawn(async move {
            while let Ok(event) = events.poll().await {
                if let Event::Incoming(packet) = event
                    && sender.send(packet).is_err()
                {
                    break;
                }
            }
        });
        let mut connected = Self { client, packets, loop_task, session_present: false, early: Vec::new() };
        match connected.packet().await? {
            Packet::ConnAck(acknowledgement) => connected.session_present = acknowledgement.session_present,
            other => anyhow::bail!("expected CONNACK, got {other:?}"),
        }
        Ok(connected)
    }

    async fn packet(&mut self) -> Result<Packet> {
        timeout(WAIT, self.packets.recv()).await.context("no packet came")?.context("the connection ended")
    }

    async fn subscribe(&mut self, filter: &str, qos: QoS) -> Result<()> {
        self.client.subscribe(filter, qos).await?;
        loop {
            match self.packet().await? {
                Packet::SubAck(_) => return Ok(()),
                Packet::Publish(publish) => self.early.push(publish),
                _ => {}
            }
        }
    }

    /// Publishes and waits for PUBACK or PUBCOMP.
    async fn publish(&mut self, topic: &str, qos: QoS, retain: bool, payload: &[u8]) -> Result<()> {
        self.client.publish(topic, qos, retain, payload).await?;
        if qos == QoS::AtMostOnce {
            return Ok(());
        }
        loop {
            match self.packet().await? {
                Packet::PubAck(_) | Packet::PubComp(_) => return Ok(()),
                Packet::Publish(publish) => self.early.push(publish),
                _ => {}
            }
        }
    }

    async fn message(&mut self) -> Result<Publish> {
        if !self.early.is_empty() {
            return Ok(self.early.remove(0));
        }
        loop {
            if let Packet::Publish(publish) = self.packet().await? {
                return Ok(publish);
            }
        }
    }

    async fn disconnect(self) -> Result<()> {
        self.client.disconnect().await?;
        // The loop ends once the broker closed the connection.
        let _ = timeout(WAIT, async {
            while !self.loop_task.is_finished() {
                sleep(Duration::from_millis(5)).await
            }
        })
        .await;
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.loop_task.abort();
    }
}

async fn quality(address: &str) -> Result<()> {
    let mut sender = Client::connect(address, |_| {}).await?;
    let mut receiver = Client::connect(address, |_| {}).await?;
    for level in LEVELS {
        let topic = unique("qos");
        receiver.subscribe(&topic, level).await?;
        for outgoing in LEVELS {
            for number in 0..20 {
                sender.publish(&topic, outgoing, false, number.to_string().as_bytes()).await?;
            }
            for number in 0..20 {
                let message = receiver.message().await?;
                equal(message.payload.to_vec(), number.to_string().into_bytes(), "payload")?;
                equal(message.qos as u8, (level as u8).min(outgoing as u8), "level")?;
            }
        }
    }
    let topic = unique("big");
    receiver.subscribe(&topic, QoS::ExactlyOnce).await?;
    let body = vec![7; 1_000_000];
    sender.publish(&topic, QoS::ExactlyOnce, false, &body).await?;
    ensure!(receiver.message().await?.payload == body, "the payload changed");
    Ok(())
}

async fn retained(address: &str) -> Result<()> {
    let topic = unique("kept");
    let mut sender = Client::connect(address, |_| {}).await?;
    sender.publish(&format!("{topic}/a/x"), QoS::AtLeastOnce, true, b"kept").await?;
    sender.publish(&format!("{topic}/a/y"), QoS::AtLeastOnce, false, b"passing").await?;
    let mut receiver = Client::connect(address, |_| {}).await?;
    receiver.subscribe(&format!("{topic}/+/#"), QoS::AtLeastOnce).await?;
    let message = receiver.message().await?;
    equal((message.payload.to_vec(), message.retain), (b"kept".to_vec(), true), "retained message")?;
    sender.publish(&format!("{topic}/a/x"), QoS::AtLeastOnce, true, b"").await?;
    let message = receiver.message().await?;
    equal((message.payload.to_vec(), message.retain), (Vec::new(), false), "clearing message")?;
    let mut late = Client::connect(address, |_| {}).await?;
    late.subscribe(&format!("{topic}/#"), QoS::AtLeastOnce).await?;
    sender.publish(&format!("{topic}/b"), QoS::AtLeastOnce, false, b"live").await?;
    equal(late.message().await?.payload.to_vec(), b"live".to_vec(), "first message after clearing")
}

async fn session(address: &str) -> Result<()> {
    let (name, topic) = (unique("session"), unique("away"));
    let persistent = |options: &mut MqttOptions| {
        options.set_client_id(name.clone()).set_clean_session(false);
    };
    let mut first = Client::connect(address, persistent).await?;
    equal(first.session_present, false, "session present at first")?;
    first.subscribe(&topic, QoS::ExactlyOnce).await?;
    first.disconnect().await?;
    let mut sender = Client::connect(address, |_| {}).await?;
    for number in 0..20 {
        sender.publish(&topic, QoS::AtLeastOnce, false, number.to_string().as_bytes()).await?;
    }
    let mut second = Client::connect(address, persistent).await?;
    equal(second.session_present, true, "session present")?;
    for number in 0..20 {
        equal(second.message().await?.payload.to_vec(), number.to_string().into_bytes(), "payload")?;
    }
    second.disconnect().await?;
    let clean = Client::connect(address, |options| {
        options.set_client_id(name.clone()).set_clean_session(true);
    });
    equal(clean.await?.session_present, false, "session present after a clean session")
}

async fn will(address: &str) -> Result<()> {
    let topic = unique("will");
    let mut watcher = Client::connect(address, |_| {}).await?;
    watcher.subscribe(&topic, QoS::AtLeastOnce).await?;
    let will = LastWill::new(topic.as_str(), "gone", QoS::AtLeastOnce, false);
    let dying = Client::connect(address, |options| {
        options.set_last_will(will);
    });
    drop(dying.await?);
    equal(watcher.message().await?.payload.to_vec(), b"gone".to_vec(), "will")
}

async fn keep_alive(address: &str) -> Result<()> {
    let mut client = Client::connect(address, |options| {
        options.set_keep_alive(Duration::from_secs(2));
    })
    .await?;
    sleep(Duration::from_secs(6)).await;
    let topic = unique("alive");
    client.subscribe(&topic, QoS::AtMostOnce).await?;
    client.publish(&topic, QoS::AtMostOnce, false, b"alive").await?;
    equal(client.message().await?.payload.to_vec(), b"alive".to_vec(), "payload")
}
