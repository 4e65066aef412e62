//! A certificate authority made for one test.

use std::fs;
use std::path::Path;

pub struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let (params, key) = (Self::params(), rcgen::KeyPair::generate().expect("a key"));
        let certificate = params.self_signed(&key).expect("a certificate");
        let issuer = rcgen::Issuer::new(params, key);
        Self {
            certificate,
            issuer,
        }
    }

    /// One of this name, which has its right from this one.
    pub fn under(&self, name: &str) -> Self {
        let mut params = Self::params();
        let subject = &mut params.distinguished_name;
        subject.push(rcgen::DnType::CommonName, name);
        let (certificate, key) = self.sign(&params);
        let issuer = rcgen::Issuer::new(params, key);
        Self {
            certificate,
            issuer,
        }
    }

    fn params() -> rcgen::CertificateParams {
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Writes a certificate for `localhost`, good until that year, and its key.
    pub fn issue(&self, folder: &Path, name: &str, year: i32) {
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        // With the authority's own it would pass for one signed by itself.
        let subject = &mut params.distinguished_name;
        subject.push(rcgen::DnType::CommonName, name);
        let (certificate, key) = self.sign(&params);
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).expect("writable");
        fs::write(folder.join(format!("{name}.crt")), certificate.pem()).expect("writable");
    }

    /// A certificate of these particulars, and its key.
    pub fn sign(&self, params: &rcgen::CertificateParams) -> (rcgen::Certificate, rcgen::KeyPair) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.clone().signed_by(&key, &self.issuer);
        (certificate.expect("a certificate"), key)
    }
}
