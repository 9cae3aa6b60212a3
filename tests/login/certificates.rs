//! An authority and what it signs, made anew for each test.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::path::{Path, PathBuf};

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: tempfile::TempDir,
}

/// A server's certificate and key, both PEM, and the files that hold them.
pub struct Identity {
    pub certificate: String,
    pub key: String,
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // OpenSSL takes a certificate that is named like its issuer for a self-signed one.
        params.distinguished_name.push(DnType::CommonName, "lab authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        std::fs::write(directory.path().join("root.crt"), &certificate).unwrap();
        Authority { issuer: Issuer::new(params, key), directory }
    }

    /// File with the authority's own certificate.
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root.crt")
    }

    pub fn sign(&self, name: &str) -> Identity {
        self.sign_for(name, name)
    }

    /// For a common name and an alternative one.
    pub fn sign_for(&self, name: &str, alternative: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![alternative.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        let file = |suffix: &str| self.directory.path().join(format!("{name}.{suffix}"));
        let identity = Identity {
            certificate,
            key: key.serialize_pem(),
            certificate_file: file("crt"),
            key_file: file("key"),
        };
        write(&identity.certificate_file, &identity.certificate);
        write(&identity.key_file, &identity.key);
        identity
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}
