//! The methods of AMQP 0-9-1 with RabbitMQ's extensions: one struct each, with the specification's field
//! names.
//!
//! Reserved fields (the ticket, and `reserved-n`) are read, ignored, and written as zero or empty.
//!
//! One long file, because it is one table: the specification's classes, ids and fields.

use bytes::Bytes;

use super::field_table::FieldTable;
use super::reader::{FieldError, Reader};
use super::short_string::ShortString;
use super::writer::Writer;

/// The class and method id that open a method frame, and that a close method names as its cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MethodId {
    pub class_id: u16,
    pub method_id: u16,
}

impl MethodId {
    /// No method in particular.
    pub const NONE: Self = Self { class_id: 0, method_id: 0 };

    /// Like `basic.publish`; none for an id that AMQP 0-9-1 and RabbitMQ do not have.
    pub fn name(self) -> Option<&'static str> {
        Method::name_of(self).or_else(|| ContentMethod::name_of(self))
    }
}

impl std::fmt::Display for MethodId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}.{}", self.class_id, self.method_id),
        }
    }
}

/// Whatever can be encoded as a method: the structs of this module, the enums over them, and borrowed forms.
/// Not for implementing elsewhere.
pub trait EncodeMethod: sealed::WriteFields {
    fn method_id(&self) -> MethodId;
}

pub(super) mod sealed {
    use super::Writer;

    pub trait WriteFields {
        fn write_fields(&self, writer: &mut Writer<'_>);
    }
}
use sealed::WriteFields;

/// A type that a method field can have.
trait Field: Default {
    fn read(reader: &mut Reader<'_>) -> Result<Self, FieldError>;
    fn write(&self, writer: &mut Writer<'_>);
}

/// A method made of fields; every method frame ends with its last field.
trait ReadFields: Sized {
    fn read_fields(reader: &mut Reader<'_>) -> Result<Self, FieldError>;
}

macro_rules! field {
    ($($ty:ty, $self:ident, $reader:ident => $read:expr, $writer:ident => $write:expr;)*) => {$(
        impl Field for $ty {
            #[inline]
            fn read($reader: &mut Reader<'_>) -> Result<Self, FieldError> {
                $read
            }

            #[inline]
            fn write(&$self, $writer: &mut Writer<'_>) {
                $write
            }
        }
    )*};
}

field! {
    bool, self, reader => reader.bit(), writer => writer.bit(*self);
    u8, self, reader => reader.u8(), writer => writer.u8(*self);
    u16, self, reader => reader.u16(), writer => writer.u16(*self);
    u32, self, reader => reader.u32(), writer => writer.u32(*self);
    u64, self, reader => reader.u64(), writer => writer.u64(*self);
    ShortString, self, reader => reader.short_string(), writer => writer.short_string(self.as_short_str());
    Bytes, self, reader => reader.long_string(), writer => writer.long_string(self);
    FieldTable, self, reader => reader.table(), writer => writer.table(self);
}

/// Defines the structs of a class. `[..]` before or behind the fields are reserved ones.
macro_rules! classes {
    ($(
        $(#[$class_doc:meta])*
        mod $class:ident {$(
            $(#[$doc:meta])*
            $name:ident $([$($lead:ty),+])? {
                $($(#[$field_doc:meta])* $field:ident: $ty:ty),* $(,)?
            } $([$($trail:ty),+])?
        )*}
    )*) => {$(
        $(#[$class_doc])*
        pub mod $class {
            #[allow(unused_imports)]
            use super::*;

            $(
                $(#[$doc])*
                #[derive(Debug, Clone, Default, PartialEq)]
                pub struct $name {
                    $($(#[$field_doc])* pub $field: $ty,)*
                }

                impl ReadFields for $name {
                    #[inline]
                    fn read_fields(reader: &mut Reader<'_>) -> Result<Self, FieldError> {
                        $($(<$lead as Field>::read(reader)?;)+)?
                        $(let $field = <$ty as Field>::read(reader)?;)*
                        $($(<$trail as Field>::read(reader)?;)+)?
                        reader.finish()?;
                        Ok(Self { $($field),* })
                    }
                }

                impl WriteFields for $name {
                    #[inline]
                    #[allow(unused_variables)]
                    fn write_fields(&self, writer: &mut Writer<'_>) {
                        $($(<$lead as Field>::write(&Default::default(), writer);)+)?
                        $(<$ty as Field>::write(&self.$field, writer);)*
                        $($(<$trail as Field>::write(&Default::default(), writer);)+)?
                    }
                }
            )*
        }
    )*};
}

/// Defines an enum over methods: the one list of ids and names.
macro_rules! method_enum {
    ($(#[$doc:meta])* $enum:ident {
        $($variant:ident($ty:path) = $class_id:literal, $method_id:literal, $name:literal;)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $enum {
            $(#[doc = concat!("`", $name, "`")] $variant($ty),)*
        }

        impl $enum {
            /// Like `basic.publish`.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $name,)*
                }
            }

            fn name_of(id: MethodId) -> Option<&'static str> {
                match (id.class_id, id.method_id) {
                    $(($class_id, $method_id) => Some($name),)*
                    _ => None,
                }
            }

            /// None when `id` is not one of these methods.
            pub(super) fn read(id: MethodId, reader: &mut Reader<'_>) -> Result<Option<Self>, FieldError> {
                match (id.class_id, id.method_id) {
                    $(($class_id, $method_id) => Ok(Some(Self::$variant(<$ty>::read_fields(reader)?))),)*
                    _ => Ok(None),
                }
            }
        }

        impl EncodeMethod for $enum {
            fn method_id(&self) -> MethodId {
                match self {
                    $(Self::$variant(method) => method.method_id(),)*
                }
            }
        }

        impl WriteFields for $enum {
            fn write_fields(&self, writer: &mut Writer<'_>) {
                match self {
                    $(Self::$variant(method) => method.write_fields(writer),)*
                }
            }
        }

        $(
            impl EncodeMethod for $ty {
                #[inline]
                fn method_id(&self) -> MethodId {
                    MethodId { class_id: $class_id, method_id: $method_id }
                }
            }

            impl From<$ty> for $enum {
                fn from(method: $ty) -> Self {
                    Self::$variant(method)
                }
            }
        )*
    };
}

method_enum! {
    /// The methods that carry no content.
    Method {
        ConnectionStart(connection::Start) = 10, 10, "connection.start";
        ConnectionStartOk(connection::StartOk) = 10, 11, "connection.start-ok";
        ConnectionSecure(connection::Secure) = 10, 20, "connection.secure";
        ConnectionSecureOk(connection::SecureOk) = 10, 21, "connection.secure-ok";
        ConnectionTune(connection::Tune) = 10, 30, "connection.tune";
        ConnectionTuneOk(connection::TuneOk) = 10, 31, "connection.tune-ok";
        ConnectionOpen(connection::Open) = 10, 40, "connection.open";
        ConnectionOpenOk(connection::OpenOk) = 10, 41, "connection.open-ok";
        ConnectionClose(connection::Close) = 10, 50, "connection.close";
        ConnectionCloseOk(connection::CloseOk) = 10, 51, "connection.close-ok";
        ConnectionBlocked(connection::Blocked) = 10, 60, "connection.blocked";
        ConnectionUnblocked(connection::Unblocked) = 10, 61, "connection.unblocked";
        ConnectionUpdateSecret(connection::UpdateSecret) = 10, 70, "connection.update-secret";
        ConnectionUpdateSecretOk(connection::UpdateSecretOk) = 10, 71, "connection.update-secret-ok";
        ChannelOpen(channel::Open) = 20, 10, "channel.open";
        ChannelOpenOk(channel::OpenOk) = 20, 11, "channel.open-ok";
        ChannelFlow(channel::Flow) = 20, 20, "channel.flow";
        ChannelFlowOk(channel::FlowOk) = 20, 21, "channel.flow-ok";
        ChannelClose(channel::Close) = 20, 40, "channel.close";
        ChannelCloseOk(channel::CloseOk) = 20, 41, "channel.close-ok";
        AccessRequest(access::Request) = 30, 10, "access.request";
        AccessRequestOk(access::RequestOk) = 30, 11, "access.request-ok";
        ExchangeDeclare(exchange::Declare) = 40, 10, "exchange.declare";
        ExchangeDeclareOk(exchange::DeclareOk) = 40, 11, "exchange.declare-ok";
        ExchangeDelete(exchange::Delete) = 40, 20, "exchange.delete";
        ExchangeDeleteOk(exchange::DeleteOk) = 40, 21, "exchange.delete-ok";
        ExchangeBind(exchange::Bind) = 40, 30, "exchange.bind";
        ExchangeBindOk(exchange::BindOk) = 40, 31, "exchange.bind-ok";
        ExchangeUnbind(exchange::Unbind) = 40, 40, "exchange.unbind";
        ExchangeUnbindOk(exchange::UnbindOk) = 40, 51, "exchange.unbind-ok";
        QueueDeclare(queue::Declare) = 50, 10, "queue.declare";
        QueueDeclareOk(queue::DeclareOk) = 50, 11, "queue.declare-ok";
        QueueBind(queue::Bind) = 50, 20, "queue.bind";
        QueueBindOk(queue::BindOk) = 50, 21, "queue.bind-ok";
        QueuePurge(queue::Purge) = 50, 30, "queue.purge";
        QueuePurgeOk(queue::PurgeOk) = 50, 31, "queue.purge-ok";
        QueueDelete(queue::Delete) = 50, 40, "queue.delete";
        QueueDeleteOk(queue::DeleteOk) = 50, 41, "queue.delete-ok";
        QueueUnbind(queue::Unbind) = 50, 50, "queue.unbind";
        QueueUnbindOk(queue::UnbindOk) = 50, 51, "queue.unbind-ok";
        BasicQos(basic::Qos) = 60, 10, "basic.qos";
        BasicQosOk(basic::QosOk) = 60, 11, "basic.qos-ok";
        BasicConsume(basic::Consume) = 60, 20, "basic.consume";
        BasicConsumeOk(basic::ConsumeOk) = 60, 21, "basic.consume-ok";
        BasicCancel(basic::Cancel) = 60, 30, "basic.cancel";
        BasicCancelOk(basic::CancelOk) = 60, 31, "basic.cancel-ok";
        BasicGet(basic::Get) = 60, 70, "basic.get";
        BasicGetEmpty(basic::GetEmpty) = 60, 72, "basic.get-empty";
        BasicAck(basic::Ack) = 60, 80, "basic.ack";
        BasicReject(basic::Reject) = 60, 90, "basic.reject";
        BasicRecoverAsync(basic::RecoverAsync) = 60, 100, "basic.recover-async";
        BasicRecover(basic::Recover) = 60, 110, "basic.recover";
        BasicRecoverOk(basic::RecoverOk) = 60, 111, "basic.recover-ok";
        BasicNack(basic::Nack) = 60, 120, "basic.nack";
        ConfirmSelect(confirm::Select) = 85, 10, "confirm.select";
        ConfirmSelectOk(confirm::SelectOk) = 85, 11, "confirm.select-ok";
        TxSelect(tx::Select) = 90, 10, "tx.select";
        TxSelectOk(tx::SelectOk) = 90, 11, "tx.select-ok";
        TxCommit(tx::Commit) = 90, 20, "tx.commit";
        TxCommitOk(tx::CommitOk) = 90, 21, "tx.commit-ok";
        TxRollback(tx::Rollback) = 90, 30, "tx.rollback";
        TxRollbackOk(tx::RollbackOk) = 90, 31, "tx.rollback-ok";
    }
}

method_enum! {
    /// The methods that a content header and body frames follow.
    ContentMethod {
        Publish(basic::Publish) = 60, 40, "basic.publish";
        Return(basic::Return) = 60, 50, "basic.return";
        Deliver(basic::Deliver) = 60, 60, "basic.deliver";
        GetOk(basic::GetOk) = 60, 71, "basic.get-ok";
    }
}

classes! {
    /// Class 10: the connection itself; always on channel 0.
    mod connection {
        /// The server proposes version, mechanisms and locales.
        Start {
            version_major: u8,
            version_minor: u8,
            server_properties: FieldTable,
            /// SASL mechanisms, separated by spaces.
            mechanisms: Bytes,
            /// Message locales, separated by spaces.
            locales: Bytes,
        }
        /// The client selects a mechanism and a locale.
        StartOk {
            client_properties: FieldTable,
            mechanism: ShortString,
            /// The SASL initial response.
            response: Bytes,
            locale: ShortString,
        }
        /// A SASL challenge.
        Secure { challenge: Bytes }
        /// A SASL response.
        SecureOk { response: Bytes }
        /// The server proposes limits.
        Tune {
            /// Highest channel number; 0 is no limit.
            channel_max: u16,
            /// Largest frame in octets, with its header and end; 0 is no limit.
            frame_max: u32,
            /// Seconds; 0 is none.
            heartbeat: u16,
        }
        /// The client's answer to [`Tune`].
        TuneOk {
            /// Highest channel number; 0 is no limit.
            channel_max: u16,
            /// Largest frame in octets, with its header and end; 0 is no limit.
            frame_max: u32,
            /// Seconds; 0 is none.
            heartbeat: u16,
        }
        /// Opens a virtual host.
        Open { virtual_host: ShortString } [ShortString, bool]
        /// The virtual host is open.
        OpenOk [ShortString] {}
        /// Ends the connection; from either side.
        Close {
            reply_code: u16,
            reply_text: ShortString,
            /// The method that failed, or 0.
            class_id: u16,
            method_id: u16,
        }
        /// Confirms [`Close`].
        CloseOk {}
        /// RabbitMQ: the server has stopped reading publishes.
        Blocked { reason: ShortString }
        /// RabbitMQ: the server reads publishes again.
        Unblocked {}
        /// RabbitMQ: new credentials, before the old ones expire.
        UpdateSecret { new_secret: Bytes, reason: ShortString }
        /// Confirms [`UpdateSecret`].
        UpdateSecretOk {}
    }

    /// Class 20: channels.
    mod channel {
        /// Opens the channel that it is sent on.
        Open [ShortString] {}
        /// The channel is open.
        OpenOk [Bytes] {}
        /// Asks the peer to pause (false) or resume (true) sending content.
        Flow { active: bool }
        /// Confirms [`Flow`].
        FlowOk { active: bool }
        /// Ends the channel; from either side.
        Close {
            reply_code: u16,
            reply_text: ShortString,
            /// The method that failed, or 0.
            class_id: u16,
            method_id: u16,
        }
        /// Confirms [`Close`].
        CloseOk {}
    }

    /// Class 30: gone from AMQP 0-9-1, still answered by RabbitMQ for old clients.
    mod access {
        /// Asks for a ticket, which nothing looks at any more.
        Request {
            realm: ShortString,
            exclusive: bool,
            passive: bool,
            active: bool,
            write: bool,
            read: bool,
        }
        /// RabbitMQ always grants ticket 1.
        RequestOk { ticket: u16 }
    }

    /// Class 40: exchanges.
    mod exchange {
        /// Creates an exchange, or checks for it.
        Declare [u16] {
            exchange: ShortString,
            /// `direct`, `fanout`, `topic`, `headers`, or a plugin's.
            r#type: ShortString,
            /// Only check that it exists.
            passive: bool,
            durable: bool,
            /// RabbitMQ: delete it when its last binding goes.
            auto_delete: bool,
            /// RabbitMQ: not for publishing by clients.
            internal: bool,
            no_wait: bool,
            arguments: FieldTable,
        }
        /// Confirms [`Declare`].
        DeclareOk {}
        /// Deletes an exchange.
        Delete [u16] { exchange: ShortString, if_unused: bool, no_wait: bool }
        /// Confirms [`Delete`].
        DeleteOk {}
        /// RabbitMQ: binds an exchange to an exchange.
        Bind [u16] {
            destination: ShortString,
            source: ShortString,
            routing_key: ShortString,
            no_wait: bool,
            arguments: FieldTable,
        }
        /// Confirms [`Bind`].
        BindOk {}
        /// RabbitMQ: undoes [`Bind`].
        Unbind [u16] {
            destination: ShortString,
            source: ShortString,
            routing_key: ShortString,
            no_wait: bool,
            arguments: FieldTable,
        }
        /// Confirms [`Unbind`].
        UnbindOk {}
    }

    /// Class 50: queues.
    mod queue {
        /// Creates a queue, or checks for it.
        Declare [u16] {
            /// Empty: the server makes a name up.
            queue: ShortString,
            /// Only check that it exists.
            passive: bool,
            durable: bool,
            exclusive: bool,
            auto_delete: bool,
            no_wait: bool,
            arguments: FieldTable,
        }
        /// Confirms [`Declare`].
        DeclareOk {
            queue: ShortString,
            /// Messages that are ready.
            message_count: u32,
            consumer_count: u32,
        }
        /// Binds a queue to an exchange.
        Bind [u16] {
            /// Empty: the queue that this channel declared last.
            queue: ShortString,
            exchange: ShortString,
            routing_key: ShortString,
            no_wait: bool,
            arguments: FieldTable,
        }
        /// Confirms [`Bind`].
        BindOk {}
        /// Discards all messages that are ready.
        Purge [u16] { queue: ShortString, no_wait: bool }
        /// Confirms [`Purge`].
        PurgeOk { message_count: u32 }
        /// Deletes a queue.
        Delete [u16] { queue: ShortString, if_unused: bool, if_empty: bool, no_wait: bool }
        /// Confirms [`Delete`].
        DeleteOk { message_count: u32 }
        /// Undoes [`Bind`].
        Unbind [u16] {
            queue: ShortString,
            exchange: ShortString,
            routing_key: ShortString,
            arguments: FieldTable,
        }
        /// Confirms [`Unbind`].
        UnbindOk {}
    }

    /// Class 60: messages.
    mod basic {
        /// Limits unacknowledged deliveries.
        Qos {
            /// Octets; RabbitMQ refuses other than 0.
            prefetch_size: u32,
            /// Messages; 0 is no limit.
            prefetch_count: u16,
            /// RabbitMQ: shared by the channel's consumers, instead of for each new one.
            global: bool,
        }
        /// Confirms [`Qos`].
        QosOk {}
        /// Starts a consumer.
        Consume [u16] {
            /// Empty: the queue that this channel declared last.
            queue: ShortString,
            /// Empty: the server makes one up.
            consumer_tag: ShortString,
            no_local: bool,
            no_ack: bool,
            exclusive: bool,
            no_wait: bool,
            arguments: FieldTable,
        }
        /// Confirms [`Consume`].
        ConsumeOk { consumer_tag: ShortString }
        /// Ends a consumer; RabbitMQ also sends it, when the queue goes.
        Cancel { consumer_tag: ShortString, no_wait: bool }
        /// Confirms [`Cancel`].
        CancelOk { consumer_tag: ShortString }
        /// Publishes a message; content follows.
        Publish [u16] {
            exchange: ShortString,
            routing_key: ShortString,
            /// Return the message if it reaches no queue.
            mandatory: bool,
            /// RabbitMQ refuses it when true.
            immediate: bool,
        }
        /// Returns a message that was not routed; content follows.
        Return {
            reply_code: u16,
            reply_text: ShortString,
            exchange: ShortString,
            routing_key: ShortString,
        }
        /// Delivers a message to a consumer; content follows.
        Deliver {
            consumer_tag: ShortString,
            delivery_tag: u64,
            redelivered: bool,
            exchange: ShortString,
            routing_key: ShortString,
        }
        /// Asks for one message.
        Get [u16] { queue: ShortString, no_ack: bool }
        /// The message that [`Get`] asked for; content follows.
        GetOk {
            delivery_tag: u64,
            redelivered: bool,
            exchange: ShortString,
            routing_key: ShortString,
            /// Messages still ready in the queue.
            message_count: u32,
        }
        /// There was no message for [`Get`].
        GetEmpty [ShortString] {}
        /// Accepts deliveries; from the server, confirms publishes.
        Ack {
            delivery_tag: u64,
            /// All up to and including this tag; all outstanding with tag 0.
            multiple: bool,
        }
        /// Refuses one delivery.
        Reject { delivery_tag: u64, requeue: bool }
        /// Like [`Recover`], without an answer; deprecated.
        RecoverAsync { requeue: bool }
        /// Asks for all unacknowledged messages again.
        Recover { requeue: bool }
        /// Confirms [`Recover`].
        RecoverOk {}
        /// RabbitMQ: refuses deliveries; from the server, publishes that it lost.
        Nack {
            delivery_tag: u64,
            /// All up to and including this tag; all outstanding with tag 0.
            multiple: bool,
            requeue: bool,
        }
    }

    /// Class 85, RabbitMQ: publisher confirms.
    mod confirm {
        /// Turns confirms on for the channel.
        Select { no_wait: bool }
        /// Confirms [`Select`].
        SelectOk {}
    }

    /// Class 90: transactions of a channel.
    mod tx {
        /// Makes the channel transactional.
        Select {}
        /// Confirms [`Select`].
        SelectOk {}
        /// Carries out the publishes and acknowledgements since the last commit.
        Commit {}
        /// Confirms [`Commit`].
        CommitOk {}
        /// Forgets the publishes and acknowledgements since the last commit.
        Rollback {}
        /// Confirms [`Rollback`].
        RollbackOk {}
    }
}
