use crate::{
    arguments::{self, Declared},
    connection::Connection,
    names, reply,
    wire::{Exception, ReplyCode, ResourceKind, ShortString, queue},
};
use posthaste_broker::{Error, QueueDeclaration, right};
use posthaste_engine::catalog::Queue;
use posthaste_net::Output;
use std::sync::Arc;

impl Connection {
    /// `queue.declare`: creates a queue, or makes sure that the one there is the same.
    pub(crate) async fn queue_declare(
        &mut self,
        number: u16,
        declare: queue::Declare,
        out: &mut Output,
    ) -> Result<(), Exception> {
        let given = names::stripped(&declare.queue);
        let name = match (given.is_empty(), declare.passive) {
            (true, true) => self.queue_name(number, &given)?,
            (true, false) => names::queue()?,
            (false, _) => given,
        };
        if declare.passive && name.as_str().is_ok_and(names::is_reply_queue) {
            return self.declare_reply_queue(number, name, declare.no_wait, out);
        }
        let is_new = match self.find_queue(&name) {
            Ok(found) => {
                if !declare.passive {
                    // As RabbitMQ: to declare is to configure, also what is there.
                    self.queue_to::<right::Configure>(&name)?;
                    self.check_same_queue(&found, &declare, &name)?;
                }
                false
            }
            Err(error) if declare.passive || error.reply_code != ReplyCode::NotFound => return Err(error),
            Err(_) => self.create_queue(&declare, &name).await?,
        };
        self.channel(number)?.last_queue = Some(name.clone());
        let (message_count, consumer_count) =
            if is_new || declare.no_wait { (0, 0) } else { self.count(&name).await? };
        let declare_ok = queue::DeclareOk { queue: name, message_count, consumer_count };
        self.answer(number, declare.no_wait, &declare_ok, out)
    }

    /// A client makes sure that whoever waits for a reply is still there.
    fn declare_reply_queue(
        &mut self,
        number: u16,
        queue: ShortString,
        no_wait: bool,
        out: &mut Output,
    ) -> Result<(), Exception> {
        let catalog = self.broker.catalog();
        let known = catalog.namespace(self.client.namespace()).zip(queue.as_str().ok());
        if known.is_none_or(|(namespace, name)| !namespace.queues.contains_key(name)) {
            return Err(Exception::not_found(self.queue_resource(&queue)));
        }
        let declare_ok = queue::DeclareOk { queue, message_count: 0, consumer_count: 1 };
        self.answer(number, no_wait, &declare_ok, out)
    }

    /// False when somebody else created the same queue meanwhile.
    async fn create_queue(&self, declare: &queue::Declare, name: &ShortString) -> Result<bool, Exception> {
        let server_named = declare.queue.is_empty();
        if names::is_reserved(name) && !server_named {
            return Err(Exception::reserved_prefix(ResourceKind::Queue, name));
        }
        let about = self.queue_resource(name);
        let declared = Declared { durable: declare.durable, exclusive: declare.exclusive, server_named };
        let config = arguments::queue_config(&declare.arguments, declared, about)?;
        let declaration = QueueDeclaration {
            config,
            durable: declare.durable,
            exclusive: declare.exclusive,
            auto_delete: declare.auto_delete,
            owner: None,
        };
        let queue = names::name(ResourceKind::Queue, name)?;
        match self.client.create_queue(&queue, declaration).await {
            Ok(_) => Ok(true),
            Err(Error::Exists) => {
                let found = self.find_queue(name)?;
                self.check_same_queue(&found, declare, name)?;
                Ok(false)
            }
            Err(error) => Err(reply::exception(&error, about)),
        }
    }

    /// A queue of the server's own making.
    pub(crate) async fn declare(
        &self,
        name: &ShortString,
        declaration: QueueDeclaration,
    ) -> Result<Arc<Queue>, Exception> {
        let queue = names::name(ResourceKind::Queue, name)?;
        let created = self.client.create_queue(&queue, declaration).await;
        created.map_err(|error| reply::exception(&error, self.queue_resource(name)))
    }

    fn check_same_queue(
        &self,
        current: &Queue,
        declare: &queue::Declare,
        name: &ShortString,
    ) -> Result<(), Exception> {
        let about = self.queue_resource(name);
        if declare.exclusive != current.exclusive.is_some() {
            return Err(Exception::locked(about));
        }
        let quoted = |value: bool| format!("'{value}'");
        // An exclusive queue goes with its connection: whether it is durable makes no difference.
        let durable = if current.exclusive.is_some() { declare.durable } else { current.durable };
        for (argument, received, is) in
            [("durable", declare.durable, durable), ("auto_delete", declare.auto_delete, current.auto_delete)]
        {
            if received != is {
                return Err(Exception::inequivalent_arg(argument, about, quoted(received), quoted(is)));
            }
        }
        arguments::check_queue_equivalence(&current.config, &declare.arguments, about)
    }

    /// Messages that are ready, and consumers.
    async fn count(&self, name: &ShortString) -> Result<(u32, u32), Exception> {
        let state = self.client.queue_state(name.as_str().unwrap_or_default()).await;
        let state = state.map_err(|error| reply::exception(&error, self.queue_resource(name)))?;
        Ok((u32::try_from(state.ready).unwrap_or(u32::MAX), state.consumers))
    }
}
