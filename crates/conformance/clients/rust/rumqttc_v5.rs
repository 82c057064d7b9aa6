//! rumqttc with MQTT 5.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{LastWill, Packet, Publish, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::checks::{Checks, equal, unique};

const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
const WAIT: Duration = Duration::from_secs(20);

pub async fn run(checks: &mut Checks, address: &str) {
    checks.check("quality of service in both directions (5)", quality(address)).await;
    checks.check("persistent session (5)", session(address)).await;
    checks.check("shared subscription (5)", shared(address)).await;
    checks.check("properties (5)", properties(address)).await;
    checks.check("will (5)", will(address)).await;
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
    async fn publish(
        &mut self,
        topic: &str,
        qos: QoS,
        payload: &str,
        properties: PublishProperties,
    ) -> Result<()> {
        self.client.publish_with_properties(topic, qos, false, payload.to_owned(), properties).await?;
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

fn none() -> PublishProperties {
    PublishProperties::default()
}

async fn quality(address: &str) -> Result<()> {
    let mut sender = Client::connect(address, |_| {}).await?;
    let mut receiver = Client::connect(address, |_| {}).await?;
    for level in LEVELS {
        let topic = unique("qos");
        receiver.subscribe(&topic, level).await?;
        for outgoing in LEVELS {
            for number in 0..20 {
                sender.publish(&topic, outgoing, &number.to_string(), none()).await?;
            }
            for number in 0..20 {
                let message = receiver.message().await?;
                equal(message.payload.to_vec(), number.to_string().into_bytes(), "payload")?;
                equal(message.qos as u8, (level as u8).min(outgoing as u8), "level")?;
            }
        }
    }
    Ok(())
}

async fn session(address: &str) -> Result<()> {
    let (name, topic) = (unique("session"), unique("away"));
    let persistent = |options: &mut MqttOptions| {
        options.set_client_id(name.clone());
        options.set_clean_start(false).set_session_expiry_interval(Some(600));
    };
    let mut first = Client::connect(address, persistent).await?;
    equal(first.session_present, false, "session present at first")?;
    first.subscribe(&topic, QoS::ExactlyOnce).await?;
    first.disconnect().await?;
    let mut sender = Client::connect(address, |_| {}).await?;
    for number in 0..20 {
        sender.publish(&topic, QoS::ExactlyOnce, &number.to_string(), none()).await?;
    }
    let mut second = Client::connect(address, persistent).await?;
    equal(second.session_present, true, "session present")?;
    for number in 0..20 {
        equal(second.message().await?.payload.to_vec(), number.to_string().into_bytes(), "payload")?;
    }
    second.disconnect().await?;
    let clean = Client::connect(address, |options| {
        options.set_client_id(name.clone());
        options.set_clean_start(true);
    });
    equal(clean.await?.session_present, false, "session present after a clean start")
}

async fn shared(address: &str) -> Result<()> {
    let (topic, share) = (unique("work"), unique("share"));
    let filter = format!("$share/{share}/{topic}");
    let mut members = Vec::new();
    for _ in 0..2 {
        let mut member = Client::connect(address, |_| {}).await?;
        member.subscribe(&filter, QoS::AtLeastOnce).await?;
        members.push(member);
    }
    let mut sender = Client::connect(address, |_| {}).await?;
    for number in 0..40 {
        sender.publish(&topic, QoS::AtLeastOnce, &number.to_string(), none()).await?;
    }
    let mut numbers: Vec<u32> = Vec::new();
    let mut each = [0, 0];
    while numbers.len() < 40 {
        for (index, member) in members.iter_mut().enumerate() {
            while let Ok(message) = timeout(Duration::from_millis(200), member.message()).await {
                numbers.push(String::from_utf8_lossy(&message?.payload).parse()?);
                each[index] += 1;
            }
        }
    }
    numbers.sort_unstable();
    equal(numbers, (0..40).collect(), "payloads of both members")?;
    ensure!(each.iter().all(|count| *count > 0), "a member received nothing: {each:?}");
    Ok(())
}

async fn properties(address: &str) -> Result<()> {
    let topic = unique("properties");
    let mut client = Client::connect(address, |_| {}).await?;
    client.subscribe(&topic, QoS::AtLeastOnce).await?;
    let sent = PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_interval: Some(600),
        response_topic: Some("answers".to_owned()),
        correlation_data: Some(vec![0, 1, 2].into()),
        user_properties: vec![("a".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())],
        content_type: Some("text/plain".to_owned()),
        ..PublishProperties::default()
    };
    client.publish(&topic, QoS::AtLeastOnce, "body", sent.clone()).await?;
    let received = client.message().await?.properties.context("no properties")?;
    equal(received.user_properties, sent.user_properties, "user properties")?;
    equal(received.correlation_data, sent.correlation_data, "correlation data")?;
    equal(received.response_topic, sent.response_topic, "response topic")?;
    equal(received.content_type, sent.content_type, "content type")?;
    equal(received.payload_format_indicator, sent.payload_format_indicator, "payload format")?;
    let expiry = received.message_expiry_interval.context("no expiry")?;
    ensure!((590..=600).contains(&expiry), "expiry {expiry}");
    Ok(())
}

async fn will(address: &str) -> Result<()> {
    let topic = unique("will");
    let mut watcher = Client::connect(address, |_| {}).await?;
    watcher.subscribe(&topic, QoS::AtLeastOnce).await?;
    let will = LastWill::new(topic.as_str(), "gone", QoS::AtLeastOnce, false, None);
    let dying = Client::connect(address, |options| {
        options.set_last_will(will);
    });
    drop(dying.await?);
    equal(watcher.message().await?.payload.to_vec(), b"gone".to_vec(), "will")
}
