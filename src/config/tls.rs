//! PEM files of the config: read, parsed and held against each other before anything uses them.

use std::path::PathBuf;

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::block::Block;
use super::reader::{At, Read};
use super::references;
use crate::secret::Secret;

/// How the listener speaks TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    pub identity: Identity,
    /// PEM bundle; whoever connects must have a certificate signed by one of these.
    pub client_ca: Option<Vec<u8>>,
    pub min_version: MinVersion,
}

/// What the listener shows to whoever connects.
#[derive(Clone, Debug)]
pub enum Identity {
    Pem(Pair),
    /// A throw-away certificate for these names, made at each start.
    SelfSigned(Vec<String>),
}

/// A certificate chain and its private key, which fit each other.
#[derive(Clone, Debug)]
pub struct Pair {
    pub certificate_path: PathBuf,
    pub private_key_path: PathBuf,
    /// PEM, the end entity first.
    pub certificate: Vec<u8>,
    /// PEM.
    pub private_key: Secret,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinVersion {
    Tls12,
    Tls13,
}

const KEYS: &[&str] = &[
    "certificate",
    "private_key",
    "min_version",
    "client_ca",
    "self_signed",
];
const NAMES_MAX: usize = 16;

pub(super) fn read(at: &At<'_>) -> Read<Tls> {
    let block = at.block(KEYS)?;
    let identity = identity(&block);
    let client_ca = block.maybe("client_ca", authorities);
    let versions = [("1.2", MinVersion::Tls12), ("1.3", MinVersion::Tls13)];
    let min_version = block.or("min_version", MinVersion::Tls12, |at| at.choice(&versions));
    Ok(Tls {
        identity: identity?,
        client_ca: client_ca?,
        min_version: min_version?,
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
    let (certificate_path, chain_pem, chain) = certificates?;
    let (private_key_path, key_pem, key) = key?;
    match CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()) {
        Ok(_) => Ok(Some(Pair {
            certificate_path,
            private_key_path,
            certificate: chain_pem,
            private_key: key_pem,
        })),
        Err(rustls::Error::InconsistentKeys(_)) => private_key.problem(
            "does not match the certificate; give the key that the first certificate was made for",
        ),
        Err(rustls::Error::InvalidCertificate(error)) => {
            certificate.problem(format!("the first certificate does not parse: {error}"))
        }
        Err(error) => private_key.problem(format!(
            "not a key that TLS can use: {error}; use ECDSA, Ed25519 or RSA"
        )),
    }
}

/// A PEM bundle of roots, each of which parses.
pub(super) fn authorities(at: &At<'_>) -> Read<Vec<u8>> {
    let (_, bytes, certificates) = certificates(at)?;
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

fn identity(block: &Block<'_>) -> Read<Identity> {
    let Some(self_signed) = block.optional("self_signed") else {
        return match pair(block)? {
            Some(pair) => Ok(Identity::Pem(pair)),
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
        return self_signed
            .problem("excludes `certificate` and `private_key`; keep one or the other");
    }
    let names = self_signed.list(1..=NAMES_MAX)?;
    let names: Vec<_> = names.iter().map(host).collect();
    Ok(Identity::SelfSigned(
        names.into_iter().collect::<Read<_>>()?,
    ))
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

type Certificates = (PathBuf, Vec<u8>, Vec<CertificateDer<'static>>);

fn certificates(at: &At<'_>) -> Read<Certificates> {
    let (path, bytes) = references::file(at)?;
    let parsed: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    match parsed {
        Ok(certificates) if certificates.is_empty() => at.problem(format!(
            "{} holds no certificate in PEM; it would begin with `-----BEGIN CERTIFICATE-----`",
            path.display()
        )),
        Ok(certificates) => Ok((path, bytes, certificates)),
        Err(_) => at.problem(format!(
            "{} is damaged: its PEM does not parse",
            path.display()
        )),
    }
}

fn key(at: &At<'_>) -> Read<(PathBuf, Secret, PrivateKeyDer<'static>)> {
    let (path, bytes) = references::file(at)?;
    let parsed = PrivateKeyDer::from_pem_slice(&bytes);
    match (parsed, Secret::from_text(bytes)) {
        (Ok(key), Some(pem)) => Ok((path, pem, key)),
        _ => at.problem(format!(
            "{} holds no private key in PEM, or an encrypted one; it would begin with `-----BEGIN PRIVATE KEY-----`",
            path.display()
        )),
    }
}
