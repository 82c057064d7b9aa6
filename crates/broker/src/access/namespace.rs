//! The namespace of a client whose protocol has no word for one.

use crate::{
    Broker, Error,
    access::{authentication::Principal, origin::Origin},
    open::DEFAULT_NAMESPACE,
};
use posthaste_engine::{
    Catalog,
    catalog::{Action, Resource},
};
use posthaste_model::Name;

/// Stands between a namespace and a user where a client gives both as its user: `shop:ann`. It is the
/// last one, so that a namespace may have it in its name.
const BETWEEN: char = ':';

/// The user as a client names it, perhaps behind a namespace.
pub(crate) struct Given<'a> {
    pub user: &'a str,
    pub namespace: Option<Name>,
}

impl<'a> Given<'a> {
    /// A user of the whole name wins over one behind a namespace.
    pub fn read(catalog: &Catalog, text: &'a str) -> Given<'a> {
        let whole = Given { user: text, namespace: None };
        if catalog.user(text).is_some() {
            return whole;
        }
        let Some((namespace, user)) = text.rsplit_once(BETWEEN) else { return whole };
        // The name that brokers with virtual hosts give to the first one.
        let namespace = if namespace == "/" { DEFAULT_NAMESPACE } else { namespace };
        match Name::new(namespace) {
            Ok(namespace) if catalog.user(user).is_some() => Given { user, namespace: Some(namespace) },
            _ => whole,
        }
    }
}

impl Broker {
    /// Says in which namespace clients of a listener are that say nothing else.
    pub fn set_namespace(&self, listener: &str, namespace: Name) {
        self.shared.listener_namespaces.write().insert(listener.to_owned(), namespace);
    }

    /// Where a client is: in the namespace that it has named with its user, else in the one of the user's
    /// entry, else in the listener's, else in `default`.
    ///
    /// # Errors
    /// There is no such namespace, or the client has named one in which it may do nothing.
    pub fn namespace_of(&self, origin: &Origin, principal: &Principal) -> Result<Name, Error> {
        let catalog = self.shared.catalog_now();
        if let Some(named) = principal.named_namespace() {
            // Whether there is one is not for everybody to know.
            if catalog.namespace(named).is_some() && principal.may_enter(&catalog, named) {
                return Ok(named.clone());
            }
            let (action, resource) = (Action::Describe, Resource::Namespace);
            let (user, name) = (principal.name().to_owned(), named.to_string());
            return Err(Error::Denied { user, action, resource, name });
        }
        let own = principal.user().and_then(|(name, _)| catalog.user(name)?.default_namespace.clone());
        let of_listener = || self.shared.listener_namespaces.read().get(&*origin.listener).cloned();
        let namespace = own.or_else(of_listener).unwrap_or(Name::constant(DEFAULT_NAMESPACE));
        match catalog.namespace(&namespace) {
            Some(_) => Ok(namespace),
            None => Err(Error::NotFound(Resource::Namespace, namespace.to_string())),
        }
    }
}
