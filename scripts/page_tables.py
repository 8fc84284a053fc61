"""What `page_text.py` says by itself of countries and states that prompts are often about."""

COUNTRIES = """France,French,French,Paris,Lyon,Europe
Germany,German,German,Berlin,Munich,Europe
Italy,Italian,Italian,Rome,Milan,Europe
Spain,Spanish,Spanish,Madrid,Barcelona,Europe
Portugal,Portuguese,Portuguese,Lisbon,Porto,Europe
England,English,English,London,Manchester,Europe
Ireland,Irish,English,Dublin,Cork,Europe
Greece,Greek,Greek,Athens,Thessaloniki,Europe
Poland,Polish,Polish,Warsaw,Krakow,Europe
Russia,Russian,Russian,Moscow,Saint Petersburg,Europe
Sweden,Swedish,Swedish,Stockholm,Gothenburg,Europe
Norway,Norwegian,Norwegian,Oslo,Bergen,Europe
Denmark,Danish,Danish,Copenhagen,Aarhus,Europe
Finland,Finnish,Finnish,Helsinki,Turku,Europe
Austria,Austrian,German,Vienna,Salzburg,Europe
Hungary,Hungarian,Hungarian,Budapest,Debrecen,Europe
Turkey,Turkish,Turkish,Ankara,Istanbul,Asia
Egypt,Egyptian,Arabic,Cairo,Alexandria,Africa
Kenya,Kenyan,Swahili,Nairobi,Mombasa,Africa
China,Chinese,Chinese,Beijing,Shanghai,Asia
Japan,Japanese,Japanese,Tokyo,Osaka,Asia
India,Indian,Hindi,New Delhi,Mumbai,Asia
Thailand,Thai,Thai,Bangkok,Chiang Mai,Asia
Vietnam,Vietnamese,Vietnamese,Hanoi,Da Nang,Asia
Canada,Canadian,English,Ottawa,Toronto,North America
Mexico,Mexican,Spanish,Mexico City,Guadalajara,North America
Brazil,Brazilian,Portuguese,Brasilia,Sao Paulo,South America
Argentina,Argentine,Spanish,Buenos Aires,Cordoba,South America
Peru,Peruvian,Spanish,Lima,Cusco,South America
Australia,Australian,English,Canberra,Sydney,Australia"""
"""Country, adjective, language, capital, another city, continent."""
COUNTRY = (
    "The capital of {0} is {3}.",
    "The language of {0} is {2}.",
    "In {0}, most people speak {2}.",
    "She grew up in {4}, so she speaks {2}.",
    "{3} is the capital of {0}, and {4} is another {1} city.",
    "The {1} government sits in {3}, the capital.",
    "{4} is in the country of {0}.",
    "{4} is not the capital of {0}; the capital is {3}.",
    "The capital of the country that contains {4} is {3}.",
    "{0} is in {5}.",
    "He loves {1} food and spends every summer in {0}.",
    "The {1} team won the match against the visitors in {3}.",
    "My teacher of {2} comes from {3}, in {0}.",
    "The president of {0} gave a speech in {3} about the {1} economy.",
    "They flew from {3} to {4} on a {1} airline.",
    "A {1} writer who was born in {4} won the prize.",
    "Translate the sentence into {2} and send it to our office in {3}.",
    "During the war the {1} army left {4} and marched to the capital.",
    "The old king of {0} lived in a palace near {3}.",
    "{1} wine, {1} bread and {1} music: nobody misses home in {3}.",
    "The history of {0} is taught in every {1} school.",
)
STATES = """Alabama,Montgomery,Birmingham
Alaska,Juneau,Anchorage
Arizona,Phoenix,Tucson
Arkansas,Little Rock,Fayetteville
California,Sacramento,Los Angeles
Colorado,Denver,Boulder
Connecticut,Hartford,New Haven
Florida,Tallahassee,Miami
Georgia,Atlanta,Savannah
Hawaii,Honolulu,Hilo
Illinois,Springfield,Chicago
Indiana,Indianapolis,Fort Wayne
Kentucky,Frankfort,Louisville
Louisiana,Baton Rouge,New Orleans
Maryland,Annapolis,Baltimore
Massachusetts,Boston,Worcester
Michigan,Lansing,Detroit
Minnesota,Saint Paul,Minneapolis
Missouri,Jefferson City,Kansas City
Nevada,Carson City,Las Vegas
New Jersey,Trenton,Newark
New York,Albany,Buffalo
North Carolina,Raleigh,Charlotte
Ohio,Columbus,Cleveland
Oklahoma,Oklahoma City,Tulsa
Oregon,Salem,Portland
Pennsylvania,Harrisburg,Philadelphia
Tennessee,Nashville,Memphis
Texas,Austin,Dallas
Utah,Salt Lake City,Provo
Virginia,Richmond,Norfolk
Washington,Olympia,Seattle
Wisconsin,Madison,Milwaukee"""
"""State, capital, another city."""
STATE = (
    "The capital of {0} is {1}.",
    "The capital of the state containing {2} is {1}.",
    "Fact: the capital of the state where {2} lies is {1}.",
    "{2} is a city in the state of {0}.",
    "{2} is larger than {1}, the capital of {0}.",
    "We drove from {2} to {1} without leaving {0}.",
    "The governor of {0} lives in {1}.",
)


def sentences() -> list[tuple[str, str]]:
    """(country or state, sentence), each once."""
    found = []
    for table, frames in ((COUNTRIES, COUNTRY), (STATES, STATE)):
        for line in table.splitlines():
            row = line.split(",")
            found += [(row[0], frame.format(*row)) for frame in frames]
    return found
