//! What the log-in reads of an X.509 certificate: its hash for channel binding and its names.

use ring::digest;
use x509_cert::Certificate;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::{Ia5StringRef, PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode, Tag, Tagged};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// Signature algorithms and the hash that `tls-server-end-point` takes with each (RFC 5929,
/// section 4.1): MD5 and SHA-1 become SHA-256. What is not here has no hash that everybody agrees
/// upon (Ed25519), or one that not every libpq finds (RSASSA-PSS).
const HASHES: &[(&str, &digest::Algorithm)] = &[
    ("1.2.840.113549.1.1.4", &digest::SHA256),
    ("1.2.840.113549.1.1.5", &digest::SHA256),
    ("1.2.840.113549.1.1.11", &digest::SHA256),
    ("1.2.840.113549.1.1.12", &digest::SHA384),
    ("1.2.840.113549.1.1.13", &digest::SHA512),
    ("1.2.840.10045.4.1", &digest::SHA256),
    ("1.2.840.10045.4.3.2", &digest::SHA256),
    ("1.2.840.10045.4.3.3", &digest::SHA384),
    ("1.2.840.10045.4.3.4", &digest::SHA512),
];

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// What `tls-server-end-point` binds an exchange to: the hash of the server's certificate (DER).
/// `None` where the certificate is signed in a way that has none: then -PLUS cannot be spoken.
pub fn end_point_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let signed_with = parsed.signature_algorithm.oid.to_string();
    let (_, hash) = HASHES.iter().find(|(oid, _)| *oid == signed_with)?;
    Some(digest::digest(hash, certificate).as_ref().to_vec())
}

/// Whom a certificate names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The first CN of the subject.
    pub common: Option<String>,
    /// The whole subject as in RFC 2253: `CN=ann,O=shop`.
    pub distinguished: String,
    /// DNS names, mail addresses and URIs of the subject's alternative names.
    pub alternative: Vec<String>,
}

/// The names in a certificate (DER); `None` when it is none. Names with a zero byte in them are left
/// out: they are made to be taken for another one.
pub fn names(certificate: &[u8]) -> Option<Names> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let subject = &parsed.tbs_certificate.subject;
    let common = subject
        .0
        .iter()
        .flat_map(|part| part.0.iter())
        .find(|attribute| attribute.oid == COMMON_NAME)
        .and_then(text)
        .filter(|text| !text.contains('\0'));
    let alternative = match parsed.tbs_certificate.get::<SubjectAltName>() {
        Ok(Some((_, names))) => names.0.iter().filter_map(alternative).collect(),
        Ok(None) | Err(_) => Vec::new(),
    };
    Some(Names { common, distinguished: subject.to_string(), alternative })
}

fn text(attribute: &AttributeTypeAndValue) -> Option<String> {
    let value = &attribute.value;
    match value.tag() {
        Tag::Utf8String => value.decode_as::<Utf8StringRef<'_>>().ok().map(|text| text.as_str().to_owned()),
        Tag::PrintableString => {
            value.decode_as::<PrintableStringRef<'_>>().ok().map(|text| text.as_str().to_owned())
        }
        Tag::Ia5String => value.decode_as::<Ia5StringRef<'_>>().ok().map(|text| text.as_str().to_owned()),
        Tag::TeletexString => {
            value.decode_as::<TeletexStringRef<'_>>().ok().map(|text| text.as_str().to_owned())
        }
        _ => None,
    }
}

fn alternative(name: &GeneralName) -> Option<String> {
    let text = match name {
        GeneralName::DnsName(text) | GeneralName::Rfc822Name(text) => text.as_str(),
        GeneralName::UniformResourceIdentifier(text) => text.as_str(),
        _ => return None,
    };
    (!text.contains('\0')).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SigningKey};

    fn made(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        signed(&key)
    }

    fn signed(key: &impl SigningKey) -> Vec<u8> {
        let names = vec!["db.example".to_owned(), "ann@example.org".to_owned(), "10.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "shop, and more");
        params.distinguished_name.push(DnType::CommonName, "ann");
        params.self_signed(key).unwrap().der().to_vec()
    }

    #[test]
    fn the_hash_is_the_one_of_the_signature() {
        let p256 = made(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(end_point_hash(&p256).unwrap(), digest::digest(&digest::SHA256, &p256).as_ref());
        let p384 = made(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(end_point_hash(&p384).unwrap(), digest::digest(&digest::SHA384, &p384).as_ref());
        assert_eq!(end_point_hash(&made(&rcgen::PKCS_ED25519)), None);
        assert_eq!(end_point_hash(b"0\x03\x02\x01\x01"), None);
    }

    #[test]
    fn names_are_those_of_the_subject_and_its_alternatives() {
        let names = names(&made(&rcgen::PKCS_ECDSA_P256_SHA256)).unwrap();
        assert_eq!(names.common.as_deref(), Some("ann"));
        assert_eq!(names.distinguished, "CN=ann,O=shop\\, and more");
        assert_eq!(names.alternative, ["db.example", "ann@example.org"]);
        assert_eq!(super::names(b""), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), at in 0usize..300, with: u8) {
            let _ = (end_point_hash(&bytes), super::names(&bytes));
            let mut broken = made(&rcgen::PKCS_ECDSA_P256_SHA256);
            let at = at % broken.len();
            broken[at] = with;
            let _ = (end_point_hash(&broken), super::names(&broken));
        }
    }
}
