//! The key that secrets of access keys are sealed with.

use crate::configuration::File;
use base64::{Engine, engine::general_purpose::STANDARD};
use posthaste_broker::{Broker, SEALING_KEY_BYTES};
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// In a data directory without `sealing_key`.
const FILE: &str = "sealing.key";

/// Has the broker seal with the configured key, or with one that it keeps in its directory.
///
/// # Errors
/// The file cannot be read or made, or holds no key.
pub fn establish(broker: &Broker, file: &File, data: &Path) -> Result<(), String> {
    let configured = file.access.sealing_key.as_ref();
    let Some(path) = configured.cloned().or_else(|| own(data)) else {
        if broker.has_access_keys() {
            tracing::error!("no client can use its access key: set `sealing_key` under [access]");
        }
        return Ok(());
    };
    let wrong = |why: String| match configured {
        Some(_) => file.wrong("sealing_key", "[access]", &why),
        None => why,
    };
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && configured.is_none() => {
            make(&path).map_err(|error| format!("cannot make {}: {error}", path.display()))?
        }
        read => read.map_err(|error| wrong(format!("cannot read {}: {error}", path.display())))?,
    };
    let key = STANDARD.decode(text.trim()).ok().and_then(|key| key.try_into().ok());
    let key: [u8; SEALING_KEY_BYTES] = key.ok_or_else(|| {
        let name = path.display();
        wrong(format!("{name} does not hold 32 octets in base64; `openssl rand -base64 32` makes some"))
    })?;
    let unopened = broker.set_sealing_key(&key);
    if unopened > 0 {
        let file = path.display();
        tracing::error!(unopened, %file, "access keys were sealed with another key; no client can use them");
    }
    Ok(())
}

/// A bucket has no place for the key: everybody who reads the data there would read it, too.
fn own(data: &Path) -> Option<PathBuf> {
    data.is_dir().then(|| data.join(FILE))
}

/// Durably: what is sealed with the key is.
fn make(path: &Path) -> io::Result<String> {
    let mut key = [0; SEALING_KEY_BYTES];
    getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
    let text = STANDARD.encode(key) + "\n";
    let fresh = path.with_extension("key.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_made_key_is_for_its_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let text = make(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(STANDARD.decode(text.trim()).unwrap().len(), SEALING_KEY_BYTES);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
