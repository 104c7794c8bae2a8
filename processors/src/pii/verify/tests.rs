//! Positives with published check values, and near misses that must not fire.

use super::super::{Kind, ScanContext, scan};

/// What a scan of plain text finds, URLs left out: (kind, text).
fn found(text: &str) -> Vec<(Kind, &str)> {
    let spans = scan(text, "text/plain", &ScanContext::default());
    spans.iter().filter(|s| s.kind != Kind::Url).map(|s| (s.kind, &text[s.start..s.end])).collect()
}

#[track_caller]
fn finds(kind: Kind, cases: &[(&str, &str)]) {
    for (text, value) in cases {
        assert_eq!(found(text), [(kind, *value)], "in {text:?}");
    }
}

#[track_caller]
fn finds_nothing(cases: &[&str]) {
    for text in cases {
        assert_eq!(found(text), [], "in {text:?}");
    }
}

#[test]
fn email_addresses_are_found() {
    finds(
        Kind::Email,
        &[
            ("write to mia.li3818@example.com.", "mia.li3818@example.com"),
            ("<first+tag@sub.example.co.uk>", "first+tag@sub.example.co.uk"),
            ("email=o_x@example.org&x=1", "o_x@example.org"),
            ("renée@exämple.fr", "renée@exämple.fr"),
            ("mailto:a@b.io", "a@b.io"),
            ("x@xn--bcher-kva.example", "x@xn--bcher-kva.example"),
        ],
    );
    finds_nothing(&[
        "git@github.com:org/repo.git",
        "lodash@4.17.21",
        "@scope/package",
        "user@localhost",
        "a @ b.com",
        "@",
        "x@.com",
    ]);
}

/// Test numbers that the schemes and Stripe publish.
#[test]
fn cards_need_issuer_length_and_luhn() {
    for number in [
        "4242424242424242",
        "4000056655665556",
        "5555555555554444",
        "2223003122003222",
        "2720999999999996",
        "5105105105105100",
        "378282246310005",
        "6011111111111117",
        "3056930009020004",
        "36227206271667",
        "3566002020360505",
        "6205500000000000004",
        "4111 1111 1111 1111",
        "5555-5555-5555-4444",
        "3782 822463 10005",
    ] {
        let text = format!("pay with card {number} please");
        assert_eq!(found(&text), [(Kind::CreditCard, number)]);
    }
    finds_nothing(&[
        "card 4242424242424241",
        "id 1715770800000",
        "at 1715770800000000",
        "order 6759649826438453 shipped",
        "550e8400-e29b-41d4-a716-446655440000",
        "4242424242424242424242424242",
        "0000000000000000",
        "total $4242424242424242",
    ]);
}

/// Examples of the SWIFT IBAN registry.
#[test]
fn ibans_need_length_and_check_digits() {
    for iban in [
        "GB29NWBK60161331926819",
        "gb29nwbk60161331926819",
        "DE89 3704 0044 0532 0130 00",
        "FR1420041010050500013M02606",
        "NO9386011117947",
        "MT84MALT011000012345MTLCAST001S",
        "SA0380000000608010167519",
        "LC55HEMM000100010012001200023015",
        "BR1800360305000010009795493C1",
    ] {
        let text = format!("transfer from {iban}, please");
        assert_eq!(found(&text), [(Kind::Iban, iban)]);
    }
    finds_nothing(&["GB29NWBK60161331926818", "XX29NWBK60161331926819", "GB29NWBK6016133192681", "AB12CD34EF56GH78"]);
}

/// Rules of the Social Security Administration; 078-05-1120 and 219-09-9999 are its published examples.
#[test]
fn social_security_numbers_follow_the_rules() {
    finds(
        Kind::Ssn,
        &[
            ("his SSN is 219-09-9999.", "219-09-9999"),
            ("849-66-3189", "849-66-3189"),
            ("social security number 078051120", "078051120"),
            ("SSN: 078 05 1120", "078 05 1120"),
        ],
    );
    finds_nothing(&[
        "000-12-3456",
        "666-12-3456",
        "900-12-3456",
        "123-00-4567",
        "123-45-0000",
        "078051120",
        "part 123-45-6789-01",
    ]);
}

#[test]
fn network_addresses_are_found() {
    finds(
        Kind::Ip,
        &[
            ("from 165.165.185.178 blocked", "165.165.185.178"),
            ("at [2001:db8::8a2e:370:7334]", "2001:db8::8a2e:370:7334"),
            ("6e40:4041:c617:e898:c11:40d2:c669:2eb4 is", "6e40:4041:c617:e898:c11:40d2:c669:2eb4"),
            ("10.0.0.7:8080", "10.0.0.7"),
        ],
    );
    finds(Kind::Mac, &[("eth 00:1b:44:11:3a:b7 up", "00:1b:44:11:3a:b7"), ("00-1B-44-11-3A-B7", "00-1B-44-11-3A-B7")]);
    finds_nothing(&[
        "version 1.2.3.4",
        "1.2.3.4.5",
        "256.1.1.1",
        "127.0.0.1",
        "::1",
        "std::vec::Vec",
        "12:30:00",
        "a::b",
        "10.1.2",
        "01.02.03.04",
        "00:00:00:00:00:00",
        "ff:ff:ff:ff:ff:ff",
    ]);
}

#[test]
fn telephone_numbers_need_a_shape_or_a_cue() {
    finds(
        Kind::Phone,
        &[
            ("dial +41 (0)62 585 51 90", "+41 (0)62 585 51 90"),
            ("(555) 123-4567", "(555) 123-4567"),
            ("call 780-999-2181 now", "780-999-2181"),
            ("1-800-555-0199", "1-800-555-0199"),
            ("Mobile: 0688 843 79 56", "0688 843 79 56"),
            ("Fax: 9498777106", "9498777106"),
            ("001-748-088-2851x818", "001-748-088-2851x818"),
            ("tel:+447700900123", "+447700900123"),
        ],
    );
    finds_nothing(&[
        "2024-05-15 15:00:00",
        "order 5403926876",
        "5403926876",
        "flight HAT123 on 2024-05-20",
        "invoice #555-123-4567",
        "978-3-16-148410-0",
        "build 20240515.1234",
        "price $1,234,567.89",
        "3.14159265358979",
        "deadbeef12345678",
        "credit_card_4421486",
        "1990-2004",
        "sha 0123456789abcdef0123456789abcdef",
        "reservation 4WQ150",
    ]);
}

#[test]
fn dates_of_birth_need_a_cue() {
    finds(
        Kind::DateOfBirth,
        &[
            ("DOB: 1990-04-05", "1990-04-05"),
            ("born on 5/18/1956.", "5/18/1956"),
            ("date of birth is April 5, 1990", "April 5, 1990"),
            ("born 5 April 1990", "5 April 1990"),
            ("Date of Birth: 05.04.1990", "05.04.1990"),
        ],
    );
    finds_nothing(&["due 1990-04-05", "on May 20, 2024", "born in 1990-13-45", "5 April 1990"]);
}

#[test]
fn documents_and_postal_codes_need_a_cue() {
    finds(Kind::Passport, &[("passport number C01234567", "C01234567"), ("Passport: 123456789", "123456789")]);
    finds(Kind::DrivingLicence, &[("my driver's license number is F162823540116", "F162823540116")]);
    finds(Kind::Zip, &[("Austin, TX 78750", "78750"), ("my zip code is 90210-1234", "90210-1234")]);
    finds_nothing(&["license number F162823540116", "product C01234567", "in 78750 ways"]);
}

#[test]
fn street_addresses_are_found() {
    finds(
        Kind::Address,
        &[
            ("lives at 975 Sunset Drive, Suite 217.", "975 Sunset Drive, Suite 217"),
            ("to 975 Sunset Drive, Suite 217, Austin, TX 78750 today", "975 Sunset Drive, Suite 217, Austin, TX 78750"),
            ("221B Baker Street", "221B Baker Street"),
            ("in Bahnhofstraße 12 wohnen", "Bahnhofstraße 12"),
        ],
    );
    finds_nothing(&["12 New Drives", "gate 5 Street", "use 3 Different Ways", "5 items"]);
}

#[test]
fn names_need_a_cue_or_a_given_name() {
    finds(
        Kind::Person,
        &[
            ("Mr. Quillon called", "Quillon"),
            ("My name is Zephyrine Okonkwo.", "Zephyrine Okonkwo"),
            ("Dear Quillon,", "Quillon"),
            ("ask James Taylor about it", "James Taylor"),
            ("Hi Amelia, thanks", "Amelia"),
            ("signed by John F. Kennedy", "John F. Kennedy"),
            ("Name: Xanthe van der Berg", "Xanthe van der Berg"),
        ],
    );
    finds_nothing(&[
        "Dear Customer,",
        "Flight HAT123 to Austin",
        "The Quick Brown Fox",
        "Please confirm",
        "name: File",
        "I am Sure",
    ]);
}

#[test]
fn secrets_are_found_by_prefix_and_by_name() {
    let cases = [
        "AKIAQYLPMN5HHHFPZAM2",
        "ghp_IqIMNOZH6z0wIEB4T9A2g4EHMy8Ji42q4HA5",
        "glpat-nFhA8sK2dQ9xYzB4mW7e",
        "AIzaSyNHxIf32IQ1a1yjl3ZJIqKZqzLAK1XhDk-",
        "npm_9kqLm3TzXcVbNr5Wp8YdFgHj2AeSuRi7oQx1",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
        "xoxb-781236542736-2364535789652-GkwFDQoHqzXDVsC6GzqYUypD",
        "cst_187ce4f1_q83vEjRWeJCrze8SNFZ4kKvN7xI0nFhA8sK2dQ9xYzB",
    ];
    for secret in cases {
        let text = format!("use {secret} there");
        assert_eq!(found(&text), [(Kind::Secret, secret)]);
    }
    finds(
        Kind::Secret,
        &[
            ("password=Tr0ub4dor!3", "Tr0ub4dor!3"),
            ("DB_PASSWORD: \"s3cr3tpassw0rd\"", "s3cr3tpassw0rd"),
            ("api_key = 9f8a7C6b5D4e3F2a1B0c", "9f8a7C6b5D4e3F2a1B0c"),
            ("Authorization: Bearer q83vEjRWeJCrze8SNFZ4kKvN7xI0", "q83vEjRWeJCrze8SNFZ4kKvN7xI0"),
        ],
    );
    finds(Kind::UrlCredentials, &[("postgres://svc:hunter2@db.example.com/x", "svc:hunter2")]);
    let pem = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----";
    finds(Kind::Secret, &[(pem, pem)]);
    finds_nothing(&[
        "AKIAXXXXXXXXXXXXXXXX",
        "aws_access_key: AKIAIOSFODNN7EXAMPLE",
        "key: value",
        "password = line.strip()",
        "enter the password: Traceback (most recent call last)",
        "token: 550e8400-e29b-41d4-a716-446655440000",
        "api_key=your_api_key_goes_here_1",
        "TODAYINASIAASACKOFRICEFELLOVER",
        "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
        "call_oIHazX6yQrB8hUwl4cRilFKj",
    ]);
}
