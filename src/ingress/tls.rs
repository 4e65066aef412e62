//! TLS as we serve it: versions 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN, no early data (it can be
//! replayed). The provider is always named: two of them in one build would make rustls panic.
//!
//! Everything comes from bytes in memory; who reads the files says which they are. An expired certificate
//! is still served, because a sender that does not look is better served than lost: watch
//! [`Identity::not_after`].

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{InconsistentKeys, RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::clock::{Timestamp, TlsClock};
use crate::pem::{self, KeyError};
use crate::secret::Secret;

pub(super) const ALPN_HTTP2: &[u8] = b"h2";
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// What we show, and whom we let in.
#[derive(Clone, Debug)]
pub struct Options {
    /// PEM; our own certificate first.
    pub certificate: Vec<u8>,
    /// PEM; PKCS #8, PKCS #1 or SEC 1, not encrypted.
    pub private_key: Secret,
    /// PEM; demand a certificate by one of these.
    pub client_ca: Option<Vec<u8>>,
    pub version_min: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Tls12,
    Tls13,
}

/// A checked configuration, ready to serve with.
#[derive(Clone, Debug)]
pub struct Identity {
    pub config: Arc<ServerConfig>,
    /// When the first certificate of the chain expires.
    pub not_after: Timestamp,
    /// Which certificate of the chain, counted from 1, is the first that did not issue the one before it.
    pub misplaced: Option<usize>,
}

/// A throw-away certificate that is its own authority, both in PEM.
#[derive(Clone, Debug)]
pub struct SelfSigned {
    pub certificate: String,
    pub private_key: Secret,
}

/// Which of the options is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Certificate,
    PrivateKey,
    ClientCa,
}

/// What is wrong. Quotes nothing of the files.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "no certificate in it; put the PEM chain here (`-----BEGIN CERTIFICATE-----`), the server's own certificate first"
    )]
    NoCertificate,
    #[error(
        "not a readable PEM chain of X.509 certificates; export it again from where it was issued"
    )]
    BadCertificate,
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(
        "the private key is not that of the certificate; both must come from the same issuance, and the server's own certificate must be the first of the chain"
    )]
    Mismatch,
    #[error(
        "no certificate in it; put the PEM certificates of the authorities that sign clients here"
    )]
    NoClientCa,
    #[error("not a readable PEM bundle of certificate authorities")]
    BadClientCa,
    #[error(
        "not a name that a certificate can bear: use DNS names such as `localhost`, or IP addresses"
    )]
    BadName,
    #[error("the TLS library refuses this certificate and key for a server")]
    Refused,
}

impl Error {
    /// The option that the message is about.
    pub const fn part(&self) -> Part {
        match self {
            Self::NoCertificate | Self::BadCertificate | Self::BadName | Self::Refused => {
                Part::Certificate
            }
            Self::Key(_) | Self::Mismatch => Part::PrivateKey,
            Self::NoClientCa | Self::BadClientCa => Part::ClientCa,
        }
    }
}

/// Checks the options and makes a server's configuration of them.
///
/// # Errors
/// [`Error`] for the first part that is of no use.
pub fn server_config(options: &Options) -> Result<Identity, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = certificates(
        &options.certificate,
        Error::NoCertificate,
        Error::BadCertificate,
    )?;
    let not_after = expiry(&chain)?;
    let misplaced = misplaced(&chain)?;
    let key = pem::private_key(&options.private_key)?;
    let builder = ServerConfig::builder_with_details(Arc::clone(&provider), Arc::new(TlsClock))
        .with_protocol_versions(versions(options.version_min))
        .map_err(|_| Error::Refused)?;
    let builder = match &options.client_ca {
        None => builder.with_no_client_auth(),
        Some(bundle) => builder.with_client_cert_verifier(clients(bundle, provider)?),
    };
    let identity = pem::identity(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => Error::Mismatch,
        rustls::Error::InvalidCertificate(_) => Error::BadCertificate,
        _ => Error::Refused,
    })?;
    let mut config = builder.with_cert_resolver(identity);
    config.alpn_protocols = vec![ALPN_HTTP2.into(), ALPN_HTTP1.into()];
    config.max_early_data_size = 0;
    Ok(Identity {
        config: Arc::new(config),
        not_after,
        misplaced,
    })
}

/// Makes a certificate for development.
///
/// # Errors
/// [`Error::BadName`] if one of the names cannot stand in a certificate.
pub fn self_signed(names: &[String]) -> Result<SelfSigned, Error> {
    let made = rcgen::generate_simple_self_signed(names).map_err(|_| Error::BadName)?;
    let key = made.signing_key.serialize_pem().into_bytes();
    Ok(SelfSigned {
        certificate: made.cert.pem(),
        private_key: Secret::from_text(key).ok_or(KeyError::None)?,
    })
}

fn certificates(
    text: &[u8],
    none: Error,
    bad: Error,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    match CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>() {
        Ok(found) if found.is_empty() => Err(none),
        Ok(found) => Ok(found),
        Err(_) => Err(bad),
    }
}

fn expiry(chain: &[CertificateDer<'_>]) -> Result<Timestamp, Error> {
    let first = parsed(chain.first().ok_or(Error::NoCertificate)?)?;
    let seconds = first.validity().not_after.timestamp();
    Ok(Timestamp::from_millis(seconds.saturating_mul(1000)))
}

/// Each is there to be followed by its issuer (RFC 5246, 7.4.2); since TLS 1.3, senders should find it elsewhere, too.
fn misplaced(chain: &[CertificateDer<'_>]) -> Result<Option<usize>, Error> {
    let chain: Vec<_> = chain.iter().map(parsed).collect::<Result<_, _>>()?;
    let issued =
        |two: &[X509Certificate<'_>]| two[0].issuer().as_raw() == two[1].subject().as_raw();
    let first = chain.windows(2).position(|two| !issued(two));
    Ok(first.map(|at| at + 2))
}

fn parsed<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    let parsed = X509Certificate::from_der(certificate);
    parsed.map(|(_, it)| it).map_err(|_| Error::BadCertificate)
}

fn clients(
    bundle: &[u8],
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(bundle, Error::NoClientCa, Error::BadClientCa)? {
        roots.add(authority).map_err(|_| Error::BadClientCa)?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|_| Error::BadClientCa)
}

fn versions(min: Version) -> &'static [&'static SupportedProtocolVersion] {
    static FROM_12: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
    static FROM_13: &[&SupportedProtocolVersion] = &[&version::TLS13];
    match min {
        Version::Tls12 => FROM_12,
        Version::Tls13 => FROM_13,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: &[u8] = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

    fn options() -> Options {
        let made = self_signed(&["localhost".into(), "127.0.0.1".into()]).expect("made");
        Options {
            certificate: made.certificate.into_bytes(),
            private_key: made.private_key,
            client_ca: None,
            version_min: Version::Tls12,
        }
    }

    fn key(text: &str) -> Secret {
        Secret::from_text(text.into()).expect("not empty")
    }

    #[test]
    fn a_pair_of_our_own_serves_and_says_when_it_ends() {
        let identity = server_config(&options()).expect("serves");
        assert!(identity.not_after > Timestamp::now());
        assert_eq!(identity.config.alpn_protocols, [ALPN_HTTP2, ALPN_HTTP1]);
        assert_eq!(identity.config.max_early_data_size, 0);
    }

    #[test]
    fn each_part_that_is_wrong_is_named() {
        let good = options();
        let with_certificate = |text: &[u8]| Options {
            certificate: text.to_vec(),
            ..good.clone()
        };
        let with_key = |text: &str| Options {
            private_key: key(text),
            ..good.clone()
        };
        let with_ca = |text: &[u8]| Options {
            client_ca: Some(text.to_vec()),
            ..good.clone()
        };
        let of_another = Options {
            private_key: options().private_key,
            ..good.clone()
        };
        let cases = [
            (
                with_certificate(b""),
                Error::NoCertificate,
                Part::Certificate,
            ),
            (
                with_certificate(good.private_key.expose()),
                Error::NoCertificate,
                Part::Certificate,
            ),
            (
                with_certificate(BAD),
                Error::BadCertificate,
                Part::Certificate,
            ),
            (
                with_key("nothing"),
                Error::Key(KeyError::None),
                Part::PrivateKey,
            ),
            (
                with_key(
                    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
                ),
                Error::Key(KeyError::Encrypted),
                Part::PrivateKey,
            ),
            (
                with_key(
                    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
                ),
                Error::Key(KeyError::Encrypted),
                Part::PrivateKey,
            ),
            (
                with_key("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
                Error::Key(KeyError::Unusable),
                Part::PrivateKey,
            ),
            (of_another, Error::Mismatch, Part::PrivateKey),
            (with_ca(b""), Error::NoClientCa, Part::ClientCa),
            (with_ca(BAD), Error::BadClientCa, Part::ClientCa),
        ];
        for (options, expected, part) in cases {
            let error = server_config(&options).expect_err("refused");
            assert_eq!(error, expected);
            assert_eq!(error.part(), part);
        }
    }

    #[test]
    fn a_client_authority_is_taken() {
        let ca = options().certificate;
        let demanding = Options {
            client_ca: Some(ca),
            version_min: Version::Tls13,
            ..options()
        };
        assert!(server_config(&demanding).is_ok());
    }
}
