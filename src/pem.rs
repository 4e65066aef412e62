//! Private keys out of PEM (RFC 7468), and certificates into it, with nothing of a key left behind: the usual reader
//! and the usual builders of TLS each drop copies that are not wiped. What stays is the library's own key, which
//! wipes itself.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{Error, InconsistentKeys};
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Why there is no key. Quotes nothing of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error(
        "no private key in it; put the PEM key of the certificate here (`-----BEGIN PRIVATE KEY-----`)"
    )]
    None,
    #[error(
        "the private key is encrypted, and nobody is there to type its passphrase; decrypt it with `openssl pkey -in KEY -out PLAIN`, and guard the file by its mode"
    )]
    Encrypted,
    #[error(
        "not a private key that we can use; RSA of at least 2048 bits, ECDSA P-256, P-384 or P-521, and Ed25519 are"
    )]
    Unusable,
}

#[derive(Clone, Copy)]
enum Form {
    Pkcs8,
    Pkcs1,
    Sec1,
}

/// The first private key of a text.
///
/// # Errors
/// [`KeyError`].
pub fn private_key(pem: &Secret) -> Result<Arc<dyn SigningKey>, KeyError> {
    let text = pem.expose();
    parse(text).map_err(|error| {
        if is_encrypted(text) {
            KeyError::Encrypted
        } else {
            error
        }
    })
}

/// To be shown by whoever has the key. The chain begins with the certificate that it was made for.
///
/// # Errors
/// The certificate does not parse, or is another key's.
pub fn identity(
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
) -> Result<Arc<SingleCertAndKey>, Error> {
    let identity = CertifiedKey::new(chain, key);
    match identity.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {
            Ok(Arc::new(SingleCertAndKey::from(identity)))
        }
        Err(error) => Err(error),
    }
}

/// These, and nothing else that a file of theirs may hold.
pub fn of_certificates(chain: &[CertificateDer<'_>]) -> Vec<u8> {
    let mut pem = Vec::new();
    for certificate in chain {
        pem.extend(b"-----BEGIN CERTIFICATE-----\n");
        for line in STANDARD.encode(certificate).as_bytes().chunks(64) {
            pem.extend(line);
            pem.push(b'\n');
        }
        pem.extend(b"-----END CERTIFICATE-----\n");
    }
    pem
}

fn parse(text: &[u8]) -> Result<Arc<dyn SigningKey>, KeyError> {
    let mut lines = text.split(|byte| matches!(byte, b'\n' | b'\r'));
    let form = lines.find_map(form).ok_or(KeyError::None)?;
    let mut base64 = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut ends = false;
    for line in lines {
        ends = line.trim_ascii().starts_with(b"-----END ");
        if ends {
            break;
        }
        base64.extend(line.iter().filter(|byte| !byte.is_ascii_whitespace()));
    }
    if !ends {
        return Err(KeyError::Unusable);
    }
    let mut der = Zeroizing::new(vec![0; base64.len()]);
    let length = STANDARD.decode_slice(&*base64, &mut der);
    let der = &der[..length.map_err(|_| KeyError::Unusable)?];
    let key: PrivateKeyDer<'_> = match form {
        Form::Pkcs8 => PrivatePkcs8KeyDer::from(der).into(),
        Form::Pkcs1 => PrivatePkcs1KeyDer::from(der).into(),
        Form::Sec1 => PrivateSec1KeyDer::from(der).into(),
    };
    any_supported_type(&key).map_err(|_| KeyError::Unusable)
}

/// What begins at this line, if a key does.
fn form(line: &[u8]) -> Option<Form> {
    match line.trim_ascii() {
        b"-----BEGIN PRIVATE KEY-----" => Some(Form::Pkcs8),
        b"-----BEGIN RSA PRIVATE KEY-----" => Some(Form::Pkcs1),
        b"-----BEGIN EC PRIVATE KEY-----" => Some(Form::Sec1),
        _ => None,
    }
}

/// PKCS #8 says so in its label, the older forms in a field of their own (RFC 1421).
fn is_encrypted(text: &[u8]) -> bool {
    let has = |mark: &[u8]| text.windows(mark.len()).any(|window| window == mark);
    has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_stands_between_the_marks_is_read_to_its_end(inside in any::<Vec<u8>>(), base64 in "[A-Za-z0-9+/=\n ]*") {
            for inside in [&inside[..], base64.as_bytes()] {
                let text = [b"-----BEGIN PRIVATE KEY-----\n", inside, b"\n-----END PRIVATE KEY-----\n"].concat();
                let secret = Secret::from_text(text).expect("not empty");
                prop_assert!(private_key(&secret).is_err());
            }
        }
    }

    fn key(text: &str) -> Result<(), KeyError> {
        let secret = Secret::from_text(text.into()).expect("not empty");
        private_key(&secret).map(drop)
    }

    /// What OpenSSL makes of these arguments.
    fn made(arguments: &[&str]) -> String {
        let made = Command::new("openssl").args(arguments).output();
        let made = made.expect("openssl runs");
        assert!(made.status.success(), "{made:?}");
        String::from_utf8(made.stdout).expect("text")
    }

    #[test]
    fn keys_of_each_form_and_kind_are_read_however_they_are_set() {
        let rsa = |bits: &str| made(&["genrsa", "-traditional", bits]);
        let pkcs1 = rsa("2048");
        let sec1 = made(&["ecparam", "-name", "prime256v1", "-genkey"]);
        assert!(pkcs1.contains("BEGIN RSA PRIVATE KEY") && sec1.contains("BEGIN EC PARAMETERS"));
        let generated =
            |arguments: &[&str]| made(&[&["genpkey", "-algorithm"], arguments].concat());
        for text in [
            pkcs1.clone(),
            sec1,
            generated(&["rsa"]),
            generated(&["ec", "-pkeyopt", "ec_paramgen_curve:P-384"]),
            generated(&["ed25519"]),
            pkcs1.replace('\n', "\r\n"),
            pkcs1.replace('\n', " \n"),
            format!("Bag Attributes\n  friendlyName: x\n{pkcs1}{}", rsa("1024")),
            pkcs1.trim_end().to_owned(),
        ] {
            assert_eq!(key(&text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_is_no_usable_key_has_its_reason() {
        let good = rcgen::KeyPair::generate().expect("a key").serialize_pem();
        let short = made(&["genrsa", "1024"]);
        let locked = made(&["genrsa", "-aes128", "-passout", "pass:x", "2048"]);
        let locked_of_old = made(&[
            "genrsa",
            "-traditional",
            "-aes128",
            "-passout",
            "pass:x",
            "2048",
        ]);
        for (text, expected) in [
            ("nothing", KeyError::None),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
                KeyError::None,
            ),
            (&locked, KeyError::Encrypted),
            (&locked_of_old, KeyError::Encrypted),
            (&short, KeyError::Unusable),
            (&good.replace("-----END", "-----FIN"), KeyError::Unusable),
            (&good.replace("MI", "M!"), KeyError::Unusable),
            (
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
                KeyError::Unusable,
            ),
        ] {
            assert_eq!(key(text), Err(expected), "{text}");
        }
    }
}
