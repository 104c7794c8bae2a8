//! What the name of a JSON field says about its value.
//!
//! Keys are compared without case and separators: `first_name`, `firstName` and `First-Name` are
//! one. A name decides only where the value looks like what it promises.

use super::kind::Kind;
use super::verify::{name, secret};

/// What a key says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Class {
    /// Nothing.
    #[default]
    Plain,
    /// The value is of this kind.
    Value(Kind),
    /// `name`: of a person, where the object is one or the value looks like one.
    Name,
    /// A secret where the value is long and random enough: `token` also names words of a text.
    Token,
    /// An object that describes a person.
    Role,
}

const KEY_BYTES_MAX: usize = 32;

/// Class of a key.
pub(super) fn classify(key: &str) -> Class {
    let mut lower = [0_u8; KEY_BYTES_MAX];
    let mut length = 0;
    // Letters and digits alone: `first_name`, `firstName` and `First-Name` are one key.
    for b in key.bytes().filter(u8::is_ascii_alphanumeric) {
        // Longer than any known name, so it is none; and no key makes this walk longer than 32 letters.
        let Some(slot) = lower.get_mut(length) else { return Class::Plain };
        *slot = b.to_ascii_lowercase();
        length += 1;
    }
    let lower = &lower[..length];
    match class_of(lower) {
        // `emails` and `addresses` hold what their singular does.
        Class::Plain => lower.strip_suffix(b"s").map_or(Class::Plain, class_of),
        class => class,
    }
}

fn class_of(key: &[u8]) -> Class {
    use Kind::*;
    match key {
        b"firstname" | b"lastname" | b"middlename" | b"surname" | b"givenname" | b"familyname" | b"fullname"
        | b"patientname" | b"customername" | b"passengername" | b"cardholder" | b"cardholdername"
        | b"accountholder" | b"contactname" | b"maidenname" | b"employeename" | b"guestname" | b"recipientname"
        | b"sendername" | b"nameoncard" | b"beneficiaryname" | b"fname" | b"lname" | b"personname" => {
            Class::Value(Person)
        }
        b"name" | b"displayname" => Class::Name,
        b"email" | b"emailaddress" | b"mail" | b"useremail" | b"contactemail" | b"workemail" => Class::Value(Email),
        b"phone" | b"phonenumber" | b"mobile" | b"mobilephone" | b"mobilenumber" | b"tel" | b"telephone" | b"cell"
        | b"cellphone" | b"fax" | b"faxnumber" | b"msisdn" | b"phoneno" | b"homephone" | b"workphone"
        | b"contactnumber" => Class::Value(Phone),
        b"address" | b"address1" | b"address2" | b"address3" | b"addressline1" | b"addressline2" | b"streetaddress"
        | b"street" | b"street1" | b"street2" | b"city" | b"town" | b"homeaddress" | b"billingaddress"
        | b"shippingaddress" | b"mailingaddress" | b"postaladdress" | b"addresse" | b"birthplace" | b"placeofbirth" => {
            Class::Value(Address)
        }
        b"zip" | b"zipcode" | b"postalcode" | b"postcode" => Class::Value(Zip),
        b"dob" | b"dateofbirth" | b"birthdate" | b"birthday" | b"birthdt" | b"birth" => Class::Value(DateOfBirth),
        b"ssn"
        | b"socialsecuritynumber"
        | b"socialsecurity"
        | b"nationalid"
        | b"nationalinsurancenumber"
        | b"taxid"
        | b"nin"
        | b"tin"
        | b"itin"
        | b"personalnumber"
        | b"pesel"
        | b"aadhaar"
        | b"cpf"
        | b"nino" => Class::Value(Ssn),
        b"cardnumber" | b"creditcard" | b"creditcardnumber" | b"ccnumber" | b"ccnum" | b"pan" | b"cardno"
        | b"debitcardnumber" | b"paymentcard" | b"cvv" | b"cvc" | b"cvv2" | b"securitycode" => Class::Value(CreditCard),
        b"iban" => Class::Value(Iban),
        b"accountnumber" | b"accountno" | b"acctnumber" | b"routingnumber" | b"bankaccount" | b"bankaccountnumber"
        | b"sortcode" => Class::Value(BankAccount),
        b"password"
        | b"passwd"
        | b"pwd"
        | b"passphrase"
        | b"passcode"
        | b"secret"
        | b"clientsecret"
        | b"apikey"
        | b"secretkey"
        | b"accesstoken"
        | b"refreshtoken"
        | b"authtoken"
        | b"idtoken"
        | b"bearertoken"
        | b"privatekey"
        | b"authorization"
        | b"secretaccesskey"
        | b"awssecretaccesskey"
        | b"xapikey"
        | b"sessiontoken"
        | b"connectionstring" => Class::Value(Secret),
        b"token" | b"tokenvalue" | b"key" => Class::Token,
        b"passport" | b"passportnumber" | b"passportno" => Class::Value(Passport),
        b"driverlicense"
        | b"driverslicense"
        | b"drivinglicence"
        | b"driverlicensenumber"
        | b"driverslicensenumber"
        | b"drivinglicense"
        | b"dlnumber" => Class::Value(DrivingLicence),
        b"ip" | b"ipaddress" | b"clientip" | b"remoteaddr" | b"sourceip" => Class::Value(Ip),
        b"macaddress" => Class::Value(Mac),
        b"userid" | b"username" | b"login" | b"loginname" | b"userhandle" | b"customerid" => Class::Value(Username),
        b"user" | b"customer" | b"patient" | b"passenger" | b"person" | b"contact" | b"employee" | b"recipient"
        | b"sender" | b"profile" | b"member" | b"guest" | b"client" | b"owner" | b"traveler" | b"traveller"
        | b"cardowner" | b"applicant" | b"author" | b"assignee" | b"savedpassenger" | b"people" => Class::Role,
        _ => Class::Plain,
    }
}

/// Kind of a string value under a key of that class, in an object that does (`role`) or does not
/// describe a person; `None` where the value is not what the key promises.
pub(super) fn kind_of(class: Class, role: bool, value: &str) -> Option<Kind> {
    let value = value.trim();
    let kind = match class {
        Class::Value(kind) => kind,
        Class::Name | Class::Role => {
            return (is_person(value) && (role || class == Class::Role || is_full_name(value))).then_some(Kind::Person);
        }
        // `token` names words of a text as often as secrets: the value decides.
        Class::Token => return secret::is_key(value.as_bytes()).then_some(Kind::Secret),
        Class::Plain => return None,
    };
    promises(kind, value).then_some(kind)
}

fn promises(kind: Kind, value: &str) -> bool {
    let digits = value.bytes().filter(u8::is_ascii_digit).count();
    let letters = value.chars().filter(|c| c.is_alphabetic()).count();
    // Our own tokens come back in later events; a token of a token would cut every join.
    let is_token = value.starts_with('[') && value.ends_with(']');
    if is_token || matches!(value, "" | "null" | "none" | "None" | "N/A" | "n/a" | "unknown" | "true" | "false") {
        return false;
    }
    match kind {
        // The scanner finds these by itself, and more exactly.
        Kind::Email | Kind::Ip | Kind::Mac | Kind::Iban => false,
        // Six letters leave room for `ext.` and `x`, not for a sentence under the key `mobile`.
        Kind::Phone => digits >= 5 && letters <= 6,
        // Three or four digits alone are the code on the back; twelve are the shortest card number.
        Kind::CreditCard => digits == value.len() && matches!(digits, 3 | 4) || digits >= 12,
        // National numbers have letters too: four digits tell them from words.
        Kind::Ssn | Kind::Passport | Kind::DrivingLicence | Kind::BankAccount => digits >= 4 && value.len() <= 40,
        Kind::DateOfBirth => digits >= 4,
        Kind::Zip => digits >= 3 && value.len() <= 12 || letters >= 2 && digits >= 2,
        // No name is longer, and a description may stand under any key.
        Kind::Person => letters >= 1 && value.len() <= 128,
        Kind::Address => letters + digits >= 2 && value.len() <= 256,
        Kind::Username => letters >= 3 && value.len() <= 64 && !value.contains(' ') && !is_opaque(value),
        // A URL under `authorization` is where to ask for one; credentials in it are found by the scan of text.
        Kind::Secret => value.len() >= 4 && !value.contains("://"),
        Kind::UrlCredentials | Kind::Url | Kind::Unscanned => false,
    }
}

/// A UUID or a hexadecimal or random id: it names nobody by itself.
fn is_opaque(value: &str) -> bool {
    let hex = value.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    let runs = value.bytes().zip(value.bytes().skip(1));
    // Random ids switch between letters and digits more than four times; account names do not.
    let switches = runs.filter(|(a, b)| a.is_ascii_digit() != b.is_ascii_digit()).count();
    hex && value.len() >= 8 || switches > 4
}

fn is_person(value: &str) -> bool {
    let words = value.split_whitespace().count();
    // Five words hold a title and a double surname; more is a sentence.
    (1..=5).contains(&words)
        && value.len() <= 80
        && !value.bytes().any(|b| b.is_ascii_digit() || b"_/@:{}[]<>".contains(&b))
        && value.split_whitespace().next().is_some_and(|word| name::is_capital(word.as_bytes()))
}

fn is_full_name(value: &str) -> bool {
    let mut words = value.split_whitespace();
    let first = words.next().is_some_and(|word| name::is_given(word.as_bytes()));
    first && words.next().is_some_and(|word| name::is_capital(word.as_bytes()))
}
