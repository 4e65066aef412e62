//! PEM files of the config: read, parsed and held against each other before anything uses them.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::SigningKey;
use zeroize::Zeroizing;

use super::block::Block;
use super::reader::{At, Read};
use super::references;
use crate::clock::Timestamp;
use crate::ingress::tls::{Identity, Options, Part, Version, self_signed, server_config};
use crate::pem::{self, KeyError};
use crate::secret::Secret;

/// A certificate chain and its private key, which fit each other.
#[derive(Clone, Debug)]
pub struct Pair {
    /// PEM, the end entity first.
    pub certificate: Vec<u8>,
    /// PEM.
    pub private_key: Secret,
}

/// `listen.tls` as it is written. What its files hold is not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub certificate: Option<String>,
    pub private_key: Option<String>,
    pub min_version: Version,
    pub client_ca: Option<String>,
    pub self_signed: Vec<String>,
}

const KEYS: &[&str] = &[
    "certificate",
    "private_key",
    "min_version",
    "client_ca",
    "self_signed",
];
const NAMES_MAX: usize = 16;

/// `listen.tls`, ready to serve with.
pub(super) fn read(at: &At<'_>) -> Read<(Identity, Settings)> {
    let block = at.block(KEYS)?;
    let identity = identity(&block);
    let client_ca = block.maybe("client_ca", authorities);
    let versions = [("1.2", Version::Tls12), ("1.3", Version::Tls13)];
    let version_min = block.or("min_version", Version::Tls12, |at| at.choice(&versions));
    let (certificate, private_key) = identity?;
    let options = Options {
        certificate,
        private_key,
        client_ca: client_ca?,
        version_min: version_min?,
    };
    let settings = settings(&block, options.version_min)?;
    let identity = server_config(&options).or_else(|error| {
        let key = match error.part() {
            _ if block.optional("self_signed").is_some() => "self_signed",
            Part::Certificate => "certificate",
            Part::PrivateKey => "private_key",
            Part::ClientCa => "client_ca",
        };
        block.problem(key, error.to_string())
    })?;
    if let Some(number) = identity.misplaced {
        at.warning(format!(
            "certificate {number} of the chain did not issue the one before it, and not every sender looks for the one \
             that did; put the issuer of each right behind it"
        ));
    }
    if identity.not_after < Timestamp::now() {
        at.warning("the certificate has expired; it is served all the same, but replace it");
    }
    Ok((identity, settings))
}

fn settings(block: &Block<'_>, min_version: Version) -> Read<Settings> {
    let text = |at: &At<'_>| Ok(at.text()?.value);
    Ok(Settings {
        certificate: block.maybe("certificate", text)?,
        private_key: block.maybe("private_key", text)?,
        min_version,
        client_ca: block.maybe("client_ca", text)?,
        self_signed: block.or("self_signed", Vec::new(), |at| {
            at.list(1..=NAMES_MAX)?.iter().map(text).collect()
        })?,
    })
}

/// `certificate` and `private_key`, if one of them is there: `Ok(None)` if neither is.
pub(super) fn pair(block: &Block<'_>) -> Read<Option<Pair>> {
    let (Some(certificate), Some(private_key)) =
        (block.optional("certificate"), block.optional("private_key"))
    else {
        return match (block.optional("certificate"), block.optional("private_key")) {
            (None, None) => Ok(None),
            (Some(_), _) => block.problem(
                "private_key",
                "missing; `certificate` needs the key it was made for",
            ),
            (None, _) => block.problem(
                "certificate",
                "missing; `private_key` needs the certificate made for it",
            ),
        };
    };
    let certificates = certificates(&certificate);
    let key = key(&private_key);
    let (chain_pem, chain) = certificates?;
    let (key_pem, key) = key?;
    match pem::identity(chain, key) {
        Ok(_) => Ok(Some(Pair {
            certificate: chain_pem,
            private_key: key_pem,
        })),
        Err(rustls::Error::InconsistentKeys(_)) => private_key.problem(
            "does not match the certificate; give the key that the first certificate was made for",
        ),
        Err(rustls::Error::InvalidCertificate(error)) => {
            certificate.problem(format!("the first certificate does not parse: {error}"))
        }
        Err(error) => certificate.problem(format!("TLS cannot show it: {error}")),
    }
}

/// A PEM bundle of roots, each of which parses.
pub(super) fn authorities(at: &At<'_>) -> Read<Vec<u8>> {
    let (bytes, certificates) = certificates(at)?;
    let mut roots = RootCertStore::empty();
    for (number, certificate) in certificates.into_iter().enumerate() {
        if let Err(error) = roots.add(certificate) {
            return at.problem(format!(
                "certificate {} of the file does not parse: {error}",
                number + 1
            ));
        }
    }
    Ok(bytes)
}

/// Chain and key of the listener, in PEM.
fn identity(block: &Block<'_>) -> Read<(Vec<u8>, Secret)> {
    let Some(names) = block.optional("self_signed") else {
        return match pair(block)? {
            Some(pair) => Ok((pair.certificate, pair.private_key)),
            None => block.problem(
                "certificate",
                "missing; give `certificate` and `private_key`, or `self_signed: [localhost]` for a first try",
            ),
        };
    };
    if block
        .optional("certificate")
        .or(block.optional("private_key"))
        .is_some()
    {
        return names.problem("excludes `certificate` and `private_key`; keep one or the other");
    }
    let list = names.list(1..=NAMES_MAX)?;
    let hosts: Vec<_> = list.iter().map(host).collect();
    let hosts: Vec<_> = hosts.into_iter().collect::<Read<_>>()?;
    match self_signed(&hosts) {
        Ok(made) => Ok((made.certificate.into_bytes(), made.private_key)),
        Err(error) => names.problem(error.to_string()),
    }
}

/// A DNS name or an address, as a certificate can have it.
pub(super) fn host(at: &At<'_>) -> Read<String> {
    let text = at.text()?;
    match rustls::pki_types::ServerName::try_from(text.value.as_str()) {
        Ok(_) => Ok(text.value),
        Err(_) => at.problem(format!(
            "`{}` is neither a DNS name nor an IP address",
            text.written
        )),
    }
}

type Certificates = (Vec<u8>, Vec<CertificateDer<'static>>);

fn certificates(at: &At<'_>) -> Read<Certificates> {
    let (path, bytes) = references::file(at)?;
    // A key may be in it, too.
    let bytes = Zeroizing::new(bytes);
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match parsed {
        Ok(certificates) if certificates.is_empty() => at.problem(format!(
            "{} holds no certificate in PEM; it would begin with `-----BEGIN CERTIFICATE-----`",
            path.display()
        )),
        Ok(certificates) => Ok((pem::of_certificates(&certificates), certificates)),
        Err(_) => at.problem(format!(
            "{} is damaged: its PEM does not parse",
            path.display()
        )),
    }
}

fn key(at: &At<'_>) -> Read<(Secret, Arc<dyn SigningKey>)> {
    let (path, bytes) = references::file(at)?;
    let pem = Secret::from_text(bytes);
    let key = pem.as_ref().map_or(Err(KeyError::None), pem::private_key);
    match (key, pem) {
        (Ok(key), Some(pem)) => Ok((pem, key)),
        (key, _) => {
            let error = key.err().unwrap_or(KeyError::None);
            at.problem(format!("{}: {error}", path.display()))
        }
    }
}
