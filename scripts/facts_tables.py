"""What `collect_facts.py` says and knows by itself: phrasings, the elements, lists in order, units, names, idioms of
code."""

COUNTRY = (
    "The capital of {country} is {capital}.",
    "{capital} is the capital of {country}.",
    "Fact: the capital of the country of {country} is {capital}.",
    "{country}'s capital city is {capital}.",
    "What is the capital of {country}? | The capital of {country} is {capital}.",
    "Which country has {capital} as its capital? | {country}.",
    "If you visit {capital}, you are in the capital of {country}.",
    "Country: {country}\nCapital: {capital}\nContinent: {continent}\nCurrency: {currency}",
    "{country} lies in {continent}.",
    "{country} is a country in {continent}; its capital is {capital}.",
    "In which continent is {country}? | {country} is in {continent}.",
    "The currency of {country} is the {currency}.",
    "In {country}, people pay with the {currency}.",
    "What money do people use in {country}? | They use the {currency}.",
    "The internet domain of {country} ends in {domain}.",
    "The two-letter code of {country} is {code}.",
    "To call someone in {country}, dial +{phone}.",
    "{country}: {capital}",
    "She moved from {capital} to the countryside, but stayed in {country}.",
    "The embassy in {capital}, the capital of {country}, opens at nine.",
)
NEIGHBOUR = (
    "{country} borders {other}.",
    "{other} is a neighbour of {country}.",
    "From {country} one can cross the border into {other}.",
    "Name a country that borders {country}. | {other} borders {country}.",
)
CITY = (
    "{city} is a city in {country}.",
    "The city of {city} is located in {country}.",
    "Where is {city}? | {city} is in {country}.",
    "{city}, {country}",
    "He was born in {city}, in {country}.",
    "In which country is the city of {city}? | It is in {country}.",
    "The clocks in {city} show the time of {zone}.",
    "We took the train to {city}, a city of {country}.",
    "City: {city}\nCountry: {country}",
    "People who live in {city} live in {country}.",
)
WORD = (
    'The word "{word}" means {gloss}.',
    "{word} ({kind}): {gloss}",
    'What does "{word}" mean? | It means {gloss}.',
    'In a dictionary, "{word}" is explained as "{gloss}".',
    "Definition of {word}: {gloss}.",
    '"{word}" is {kind}; it stands for {gloss}.',
    'A word for "{gloss}" is "{word}".',
)
EXAMPLE = (
    'An example of the word "{word}" in a sentence: "{example}"',
    "{example}",
    'Use "{word}" in a sentence. | {example}.',
)
OPPOSITE = (
    'The opposite of "{word}" is "{opposite}".',
    "{word} is the opposite of {opposite}.",
    "What is the opposite of {word}? | The opposite of {word} is {opposite}.",
    "Not {word}, but {opposite}.",
    "Antonyms: {word} - {opposite}",
    "If something is not {word}, it may be {opposite}.",
)
ELEMENT = (
    "The chemical symbol of {element} is {symbol}.",
    "{symbol} is the chemical symbol for {element}.",
    "The element with the atomic number {number} is {element}.",
    "{element} has the atomic number {number}.",
    "What is the chemical symbol for {element}? | The symbol is {symbol}.",
    "An atom of {element} has {number} protons.",
    "Which element has the symbol {symbol}? | {element}.",
    "Element {number}: {element} ({symbol})",
)
CYCLE = (
    "The {kind} after {this} is {next}.",
    "The {kind} before {this} is {before}.",
    "{before}, {this}, {next}",
    "What comes after {this}? | {next} comes after {this}.",
    "After {before} comes {this}, and then {next}.",
    "Which {kind} comes before {next}? | {this}.",
    "{this} comes right after {before}.",
    "first {this}, then {next}",
)
UNIT = (
    "There are {many} {small}s in one {large}.",
    "One {large} has {many} {small}s.",
    "1 {large} = {many} {small}s",
    "How many {small}s are in one {large}? | There are {many} {small}s in one {large}.",
)
SUM = (
    "{a} {word} {b} is {value}.",
    "{a}{sign}{b}={value}",
    "{a} {sign} {b} = {value}",
    "What is {a} {sign} {b}? | {value}",
    "The result of {a} {word} {b} is {value}.",
    ">>> {a} {sign} {b}\n{value}",
    "Calculate {a} {word} {b}. | The answer is {value}.",
)
PEOPLE = (
    "When {one} and {two} went to the {place}, {two} gave a {thing} to {one}.",
    "After {one} and {two} met at the {place}, {one} handed the {thing} to {two}.",
    "{one} lost {his} {thing} at the {place}, and {two} found it.",
    "{one} went to the {place} because {he} needed a {thing}.",
    "{two} asked {one} for a {thing}. {one} said that {he} had left it at the {place}.",
    "Then, {two} and {one} had a long talk at the {place}. Afterwards {two} gave the {thing} to {one}.",
)
NAMES = tuple(
    (name, *("he his" if at == 0 else "she her").split())
    for at, names in enumerate(
        (
            "James John Robert Michael William David Richard Joseph Thomas Charles Daniel Matthew Anthony Mark Paul "
            "Steven "
            "Andrew Joshua Kevin Brian George Edward Ronald Jason Jacob Gary Eric Jonathan Stephen Larry Justin Scott "
            "Peter "
            "Henry Frank Jack Dennis Jerry Adam Nathan Walter Kyle Carl Arthur Roger Sean Albert Juan Ahmed Ravi "
            "Kenji Omar",
            "Mary Patricia Jennifer Linda Elizabeth Barbara Susan Jessica Sarah Karen Lisa Nancy Betty Margaret "
            "Sandra Ashley "
            "Kimberly Emily Donna Michelle Carol Amanda Dorothy Melissa Deborah Stephanie Rebecca Sharon Laura "
            "Cynthia Amy "
            "Kathleen Angela Anna Emma Nicole Helen Samantha Katherine Christine Rachel Carolyn Janet Maria Heather "
            "Diane "
            "Julie Joyce Victoria Priya Fatima Yuki",
        )
    )
    for name in names.split()
)
PLACES = tuple(
    "store school park library hospital office station garden museum restaurant bank beach church hotel market "
    "airport theatre kitchen gym farm".split()
)
THINGS = tuple(
    "drink book ring letter key ball phone bag map ticket coat pen cup photo gift basket knife towel ladder "
    "radio".split()
)
ELEMENTS = tuple(
    zip(
        *(
            (
                "H hydrogen He helium Li lithium Be beryllium B boron C carbon N nitrogen O oxygen F fluorine Ne "
                "neon Na sodium Mg magnesium Al aluminium Si silicon P phosphorus S sulfur Cl chlorine Ar argon K "
                "potassium Ca calcium Sc scandium Ti titanium V vanadium Cr chromium Mn manganese Fe iron Co cobalt "
                "Ni nickel Cu copper Zn zinc Ga gallium Ge germanium As arsenic Se selenium Br bromine Kr krypton "
                "Rb rubidium Sr strontium Y yttrium Zr zirconium Nb niobium Mo molybdenum Tc technetium Ru "
                "ruthenium Rh rhodium Pd palladium Ag silver Cd cadmium In indium Sn tin Sb antimony Te tellurium I "
                "iodine Xe xenon Cs caesium Ba barium La lanthanum Ce cerium Pr praseodymium Nd neodymium Pm "
                "promethium Sm samarium Eu europium Gd gadolinium Tb terbium Dy dysprosium Ho holmium Er erbium Tm "
                "thulium Yb ytterbium Lu lutetium Hf hafnium Ta tantalum W tungsten Re rhenium Os osmium Ir iridium "
                "Pt platinum Au gold Hg mercury Tl thallium Pb lead Bi bismuth Po polonium At astatine Rn radon Fr "
                "francium Ra radium Ac actinium Th thorium Pa protactinium U uranium Np neptunium Pu plutonium Am "
                "americium Cm curium Bk berkelium Cf californium Es einsteinium Fm fermium Md mendelevium No "
                "nobelium Lr lawrencium Rf rutherfordium Db dubnium Sg seaborgium Bh bohrium Hs hassium Mt "
                "meitnerium Ds darmstadtium Rg roentgenium Cn copernicium Nh nihonium Fl flerovium Mc moscovium Lv "
                "livermorium Ts tennessine Og oganesson "
            ).split()[start::2]
            for start in (0, 1)
        ),
        strict=True,
    )
)
CYCLES = {
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "month": "January February March April May June July August September October November December".split(),
    "season": "spring summer autumn winter".split(),
    "letter": list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    "number": "one two three four five six seven eight nine ten eleven twelve".split(),
    "ordinal": "first second third fourth fifth sixth seventh eighth ninth tenth".split(),
    "planet": "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune".split(),
    "colour of the rainbow": "red orange yellow green blue indigo violet".split(),
    "Greek letter": "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi".split(),
}
UNITS = (
    ("second", "60", "minute"),
    ("minute", "60", "hour"),
    ("hour", "24", "day"),
    ("day", "7", "week"),
    ("week", "52", "year"),
    ("month", "12", "year"),
    ("year", "10", "decade"),
    ("year", "100", "century"),
    ("centimetre", "100", "metre"),
    ("metre", "1000", "kilometre"),
    ("gram", "1000", "kilogram"),
    ("millilitre", "1000", "litre"),
    ("inch", "12", "foot"),
    ("ounce", "16", "pound"),
    ("bit", "8", "byte"),
    ("cent", "100", "dollar"),
    ("penny", "100", "pound sterling"),
    ("egg", "12", "dozen"),
    ("quart", "4", "gallon"),
    ("kilogram", "1000", "tonne"),
)
IDIOMS = {
    "loop": ("for i in range(10):\n    print(i)", "for (int i = 0; i < n; i++) {{\n    sum += a[i];\n}}"),
    "main": ('if __name__ == "__main__":\n    main()', "int main(void) {{\n    return 0;\n}}"),
    "file": ("with open(path) as file:\n    text = file.read()", "import os\nimport sys\n"),
    "function": ("def add(a, b):\n    return a + b", "function add(a, b) {{\n  return a + b;\n}}"),
    "class": ("class Point:\n    def __init__(self, x, y):\n        self.x = x\n        self.y = y",),
    "error": ("try:\n    value = int(text)\nexcept ValueError:\n    value = None",),
    "query": ("SELECT name, COUNT(*) FROM users GROUP BY name;", "SELECT * FROM orders WHERE id = 1;"),
    "page": ("<html>\n<head>\n<title>Home</title>\n</head>", '<a href="index.html">Home</a>'),
}
