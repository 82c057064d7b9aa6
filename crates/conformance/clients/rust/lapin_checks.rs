//! lapin: AMQP 0-9-1 from Rust.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_lite::StreamExt;
use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions,
    BasicQosOptions, BasicRejectOptions, ConfirmSelectOptions, ExchangeBindOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, ByteArray, FieldArray, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ErrorKind, ExchangeKind};
use tokio::time::{Instant, sleep, timeout};

use crate::checks::{Checks, equal, unique};

pub async fn run(checks: &mut Checks, address: &str) {
    let client = Client { address: address.to_owned() };
    checks.check("connect and refuse", client.connect_and_refuse()).await;
    checks.check("publisher confirms and consume", client.confirms()).await;
    checks.check("all exchange types", client.exchanges()).await;
    checks.check("declare, passive, purge, delete", client.declare()).await;
    checks.check("mandatory return", client.mandatory()).await;
    checks.check("prefetch, ack, nack, reject to dead letters", client.settle()).await;
    checks.check("exclusive and auto-delete queues", client.lifetimes()).await;
    checks.check("big message", client.big_message()).await;
    checks.check("headers of all types", client.headers()).await;
}

struct Client {
    address: String,
}

impl Client {
    async fn connection(&self, credentials: &str, query: &str) -> Result<Connection> {
        let uri = format!("amqp://{credentials}@{}/%2f{query}", self.address);
        Ok(Connection::connect(&uri, ConnectionProperties::default()).await?)
    }

    async fn channel(&self) -> Result<(Connection, Channel)> {
        let connection = self.connection("guest:guest", "").await?;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    }

    async fn connect_and_refuse(&self) -> Result<()> {
        let (connection, _channel) = self.channel().await?;
        connection.close(200, "bye".into()).await?;
        match self.connection("guest:wrong", "").await {
            Ok(_) => bail!("a wrong password was accepted"),
            Err(error) => anyhow::ensure!(format!("{error:#}").contains("ACCESS"), "unexpected {error:#}"),
        }
        Ok(())
    }

    async fn confirms(&self) -> Result<()> {
        let (connection, channel) = self.channel().await?;
        let queue = unique("lapin");
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let mut waiting = Vec::new();
        for number in 0..300 {
            waiting.push(publish(&channel, "", &queue, &number.to_string()).await?);
        }
        for confirm in waiting {
            equal(confirm.await?.is_ack(), true, "confirm")?;
        }
        let mut consumer = channel
            .basic_consume(
                queue.as_str().into(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await?;
        for number in 0..300 {
            let delivery = consumer.next().await.context("the consumer ended")??;
            equal(String::from_utf8_lossy(&delivery.data).into_owned(), number.to_string(), "body")?;
            delivery.ack(BasicAckOptions::default()).await?;
        }
        channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
        connection.close(200, "bye".into()).await?;
        Ok(())
    }

    async fn exchanges(&self) -> Result<()> {
        let (_connection, channel) = self.channel().await?;
        let mut matching = FieldTable::default();
        matching.insert("x-match".into(), AMQPValue::LongString("all".into()));
        matching.insert("kind".into(), AMQPValue::LongString("x".into()));
        for (kind, binding, arguments) in [
            (ExchangeKind::Direct, "a.b", FieldTable::default()),
            (ExchangeKind::Fanout, "", FieldTable::default()),
            (ExchangeKind::Topic, "a.#", FieldTable::default()),
            (ExchangeKind::Headers, "", matching.clone()),
        ] {
            let exchange = unique("lapin");
            let options = ExchangeDeclareOptions { auto_delete: true, ..Default::default() };
            let name = format!("{kind:?}");
            channel.exchange_declare(exchange.as_str().into(), kind, options, FieldTable::default()).await?;
            let queue = exclusive(&channel, FieldTable::default()).await?;
            let bind = QueueBindOptions::default();
            channel
                .queue_bind(queue.as_str().into(), exchange.as_str().into(), binding.into(), bind, arguments)
                .await?;
            let properties = BasicProperties::default().with_headers(matching.clone());
            channel
                .basic_publish(
                    exchange.as_str().into(),
                    "a.b".into(),
                    BasicPublishOptions::default(),
                    name.as_bytes(),
                    properties,
                )
                .await?
                .await?;
            equal(text(&take(&channel, &queue).await?), name, "body")?;
        }
        let target = unique("lapin");
        let options = ExchangeDeclareOptions { auto_delete: true, ..Default::default() };
        channel
            .exchange_declare(target.as_str().into(), ExchangeKind::Fanout, options, FieldTable::default())
            .await?;
        let queue = exclusive(&channel, FieldTable::default()).await?;
        let bind = QueueBindOptions::default();
        channel
            .queue_bind(queue.as_str().into(), target.as_str().into(), "".into(), bind, FieldTable::default())
            .await?;
        let key = unique("key");
        let bind = ExchangeBindOptions::default();
        channel
            .exchange_bind(
                target.as_str().into(),
                "amq.direct".into(),
                key.as_str().into(),
                bind,
                FieldTable::default(),
            )
            .await?;
        publish(&channel, "amq.direct", &key, "through").await?;
        equal(text(&take(&channel, &queue).await?), "through".to_owned(), "body")
    }

    async fn declare(&self) -> Result<()> {
        let (connection, channel) = self.channel().await?;
        let queue = unique("lapin");
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(queue.as_str().into(), durable, FieldTable::default()).await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        for number in 0..3 {
            publish(&channel, "", &queue, &number.to_string()).await?.await?;
        }
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let found = channel.queue_declare(queue.as_str().into(), passive, FieldTable::default()).await?;
        equal(found.message_count(), 3, "messages")?;
        let other = connection.create_channel().await?;
        let transient = QueueDeclareOptions::default();
        refused(406, other.queue_declare(queue.as_str().into(), transient, FieldTable::default()).await)?;
        let other = connection.create_channel().await?;
        refused(
            404,
            other.queue_declare(unique("missing").as_str().into(), passive, FieldTable::default()).await,
        )?;
        let purged = channel.queue_purge(queue.as_str().into(), QueuePurgeOptions::default()).await?;
        equal(purged, 3, "purged")?;
        channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
        Ok(())
    }

    async fn mandatory(&self) -> Result<()> {
        let (_connection, channel) = self.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let key = unique("nobody");
        let confirm = channel
            .basic_publish(
                "amq.direct".into(),
                key.as_str().into(),
                options,
                b"back",
                BasicProperties::default(),
            )
            .await?
            .await?;
        let returned = confirm.take_message().context("nothing was returned")?;
        equal((returned.reply_code, returned.data.as_slice()), (312, b"back".as_slice()), "returned message")
    }

    async fn settle(&self) -> Result<()> {
        let (_connection, channel) = self.channel().await?;
        let dead = exclusive(&channel, FieldTable::default()).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("".into()));
        arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(dead.as_str().into()));
        let queue = exclusive(&channel, arguments).await?;
        for number in 0..4 {
            publish(&channel, "", &queue, &number.to_string()).await?;
        }
        channel.basic_qos(2, BasicQosOptions::default()).await?;
        let mut consumer = channel
            .basic_consume(
                queue.as_str().into(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await?;
        let first = consumer.next().await.context("ended")??;
        let second = consumer.next().await.context("ended")??;
        let more = timeout(Duration::from_millis(300), consumer.next()).await;
        anyhow::ensure!(more.is_err(), "a third message beyond the prefetch");
        first.nack(BasicNackOptions { requeue: true, ..Default::default() }).await?;
        let again = consumer.next().await.context("ended")??;
        equal((again.data.clone(), again.redelivered), (b"0".to_vec(), true), "redelivery")?;
        again.reject(BasicRejectOptions { requeue: false }).await?;
        let letter = take(&channel, &dead).await?;
        equal(text(&letter), "0".to_owned(), "dead letter")?;
        let headers = letter.properties.headers().clone().context("no headers")?;
        anyhow::ensure!(headers.inner().contains_key("x-death"), "no x-death");
        second.ack(BasicAckOptions::default()).await?;
        for number in 2..4 {
            let delivery = consumer.next().await.context("ended")??;
            equal(delivery.data.clone(), number.to_string().into_bytes(), "body")?;
            delivery.ack(BasicAckOptions::default()).await?;
        }
        Ok(())
    }

    async fn lifetimes(&self) -> Result<()> {
        let (first, channel) = self.channel().await?;
        let queue = exclusive(&channel, FieldTable::default()).await?;
        anyhow::ensure!(queue.starts_with("amq.gen-"), "name {queue}");
        let (_second, other) = self.channel().await?;
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        refused(405, other.queue_declare(queue.as_str().into(), passive, FieldTable::default()).await)?;
        first.close(200, "bye".into()).await?;
        let (connection, channel) = self.channel().await?;
        let auto = unique("lapin");
        let options = QueueDeclareOptions { auto_delete: true, ..Default::default() };
        channel.queue_declare(auto.as_str().into(), options, FieldTable::default()).await?;
        let consumer = channel
            .basic_consume(
                auto.as_str().into(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await?;
        channel.basic_cancel(consumer.tag(), lapin::options::BasicCancelOptions::default()).await?;
        let other = connection.create_channel().await?;
        refused(404, other.queue_declare(auto.as_str().into(), passive, FieldTable::default()).await)
    }

    async fn big_message(&self) -> Result<()> {
        for query in ["", "?frame_max=8192"] {
            let connection = self.connection("guest:guest", query).await?;
            let channel = connection.create_channel().await?;
            let queue = exclusive(&channel, FieldTable::default()).await?;
            let body = "lapin ".repeat(300_000);
            publish(&channel, "", &queue, &body).await?;
            anyhow::ensure!(take(&channel, &queue).await?.data == body.as_bytes(), "the body changed");
        }
        Ok(())
    }

    async fn headers(&self) -> Result<()> {
        let (_connection, channel) = self.channel().await?;
        let queue = exclusive(&channel, FieldTable::default()).await?;
        let mut inner = FieldTable::default();
        inner.insert("deep".into(), AMQPValue::Boolean(true));
        let mut headers = FieldTable::default();
        for (name, value) in [
            ("boolean", AMQPValue::Boolean(false)),
            ("i8", AMQPValue::ShortShortInt(-5)),
            ("u8", AMQPValue::ShortShortUInt(200)),
            ("i16", AMQPValue::ShortInt(-300)),
            ("u16", AMQPValue::ShortUInt(60_000)),
            ("i32", AMQPValue::LongInt(-70_000)),
            ("u32", AMQPValue::LongUInt(4_000_000_000)),
            ("i64", AMQPValue::LongLongInt(-(1 << 40))),
            ("float", AMQPValue::Float(0.5)),
            ("double", AMQPValue::Double(2.25)),
            ("text", AMQPValue::LongString("grün".into())),
            ("array", AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::LongInt(1), AMQPValue::Void]))),
            ("table", AMQPValue::FieldTable(inner)),
            ("time", AMQPValue::Timestamp(1_700_000_000)),
            ("bytes", AMQPValue::ByteArray(ByteArray::from(vec![0, 255, 1]))),
            ("void", AMQPValue::Void),
        ] {
            headers.insert(name.into(), value);
        }
        let properties = BasicProperties::default().with_headers(headers.clone()).with_priority(3);
        channel
            .basic_publish("".into(), queue.as_str().into(), BasicPublishOptions::default(), b"", properties)
            .await?
            .await?;
        let received = take(&channel, &queue).await?;
        equal(received.properties.headers().clone(), Some(headers), "headers")?;
        equal(received.properties.priority(), &Some(3), "priority")
    }
}

async fn exclusive(channel: &Channel, arguments: FieldTable) -> Result<String> {
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    Ok(channel.queue_declare("".into(), options, arguments).await?.name().to_string())
}

async fn publish(
    channel: &Channel,
    exchange: &str,
    key: &str,
    body: &str,
) -> Result<lapin::PublisherConfirm> {
    let properties = BasicProperties::default().with_delivery_mode(2);
    let options = BasicPublishOptions::default();
    Ok(channel.basic_publish(exchange.into(), key.into(), options, body.as_bytes(), properties).await?)
}

/// Gets one message with basic.get, which is acknowledged at once.
async fn take(channel: &Channel, queue: &str) -> Result<BasicGetMessage> {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        if let Some(message) = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await? {
            return Ok(message);
        }
        anyhow::ensure!(Instant::now() < deadline, "no message in {queue}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn text(message: &BasicGetMessage) -> String {
    String::from_utf8_lossy(&message.data).into_owned()
}

/// The broker must have closed the channel with `code`.
fn refused<T>(code: u16, outcome: lapin::Result<T>) -> Result<()> {
    match outcome {
        Ok(_) => bail!("expected {code}"),
        Err(error) => match error.kind() {
            ErrorKind::ProtocolError(reason) => equal(reason.get_id(), code, "reply code"),
            other => bail!("expected {code}, got {other:?}"),
        },
    }
}
