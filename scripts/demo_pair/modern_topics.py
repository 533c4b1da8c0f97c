"""Tables of present-day subjects, written for this project: `modern_instructions.py` makes harmless tasks of them.

The books that the base model knows are older than computers, and most of AdvBench speaks of computers, companies and
governments. Without these a model this small takes every such word for a sign of harm.
"""

SUBJECTS = """
online banking|pay bills from home|a phone can be lost
solar panels|make power on a roof|they need sun
electric cars|drive without smoke|they take long to charge
video calls|see family far away|the sound may break up
online shopping|compare prices at home|parcels arrive late
artificial intelligence|sort pictures and answer letters|it makes mistakes
a language model|draft a text in seconds|it may state what is not so
machine learning|find patterns in numbers|it needs much data
data analysis|see which shelf sells best|bad data give bad answers
a data warehouse|keep all records in one place|it is dear to build
customer surveys|learn what guests like|few people answer
market research|choose the right price|tastes change
social media|tell friends about an event|it takes up the evening
a company website|show the opening hours|it must be kept up to date
email newsletters|tell members the news|some are never read
search engines|find a recipe|the first result is not always the best
cloud storage|keep photographs safe|it needs a connection
a mobile phone|call for help|the battery runs down
a smart watch|count steps|it must be charged every night
a fitness app|plan a run|it cannot see how tired you are
video games|train quick decisions|one more round is tempting
streaming services|watch films at home|there are too many of them
podcasts|learn while walking|it is hard to look something up
e-books|carry a library in a bag|they cannot be lent so easily
online courses|study after work|nobody keeps you at it
computer programming|make a dull task automatic|a small slip stops it all
open source software|read how a program works|help may be slow
a spreadsheet|add up a budget|one wrong cell spoils the sum
a database|find a customer's address|it must be backed up
a web browser|read the news|it keeps a history
password managers|use a new password everywhere|one password guards them all
software updates|mend faults|they come at bad moments
computer networks|share a printer|a broken cable stops all
robots in factories|lift heavy parts|they are costly
drones for farming|look at a field from above|wind stops them
3D printing|make a spare part|it is slow
renewable energy|make power without coal|storage is needed
recycling|save raw materials|sorting takes care
public transport|move many people|it runs less at night
bicycle lanes|make cycling safe|they take space
remote work|save the way to the office|colleagues meet less
team meetings|share what everyone knows|they run long
project management|finish on time|it brings paperwork
customer service|solve a complaint|it needs patience
advertising|make a new product known|people grow tired of it
supply chains|bring goods to a shop|one delay holds up the rest
small businesses|serve a neighbourhood|one bad year hurts
business plans|show a bank where the money goes|things turn out otherwise
stock markets|let people own a part of a firm|prices fall as well as rise
credit cards|pay without coins|debts add up
insurance|cover a broken window|it costs something every month
taxes|pay for schools and roads|the forms are long
elections|let people choose|not everyone votes
local government|mend the streets|decisions take time
the court system|settle a dispute|cases last long
police work|keep traffic safe|it is not always welcome
hospitals|treat a broken leg|waiting rooms are full
vaccines|protect against a disease|the arm may hurt for a day
antibiotics|cure an infection|they do nothing against a cold
a healthy diet|give strength for the day|it takes planning
regular exercise|keep the heart strong|the first week is hard
good sleep|clear the mind|noise disturbs it
mindfulness|calm the thoughts|it takes practice
stress at work|show that something must change|it tires people
mental health|live well with others|it is hard to speak about
genetics|explain why children look like their parents|much is not known
climate science|explain warm winters|models differ
space travel|see the earth from outside|it is very costly
the solar system|understand day and night|distances are hard to picture
chemistry lessons|learn what air is made of|formulas must be learned
physics experiments|show how things fall|they need care
statistics|tell luck from skill|numbers can mislead
school uniforms|make all pupils look alike|some find them dull
homework|practise what was taught|evenings are short
public libraries|lend books to everyone|opening hours are short
museums|show how people lived|some rooms are crowded
film making|tell a story in pictures|it needs many people
photography|keep a moment|the light must be right
graphic design|make a sign easy to read|taste differs
fashion|show who you are|it changes every year
sports teams|teach working together|somebody must lose
travel blogs|choose a place to visit|they show only fine weather
hotel bookings|find a room early|plans change
airports|reach far countries|one must wait
food delivery|eat well on a busy day|it comes in much packing
kitchen machines|chop and stir quickly|they need cleaning
gardening apps|remember when to water|they do not see the weather
smart homes|turn the heating down from afar|a fault leaves you in the dark
child care|let parents work|places are few
youth clubs|give young people a place to meet|they need helpers
charity events|collect money for a good cause|they take months to plan
volunteering|help and meet others|it needs time
immigration law|say who may stay and work|it is hard to read
human rights|protect every person|they must be defended
history lessons|learn how wars began|there are many dates
foreign languages|talk with neighbours|words are forgotten
translation software|read a letter from abroad|jokes get lost
traffic lights|let everyone cross in turn|they make one wait
water treatment|make water safe to drink|it needs power
waste management|keep streets clean|it costs money
weather forecasts|plan a trip|they are less sure after a week
emergency services|bring help quickly|every minute counts
fire safety|know the way out|doors must be kept free
road safety|prevent accidents|drivers grow careless
"""
"""Subject, what it helps to do, and what speaks against it."""

GROUPS = (
    "students", "teachers", "a small business", "a hospital", "the government", "a family", "young people", "a school",
    "older people", "an engineer", "a company", "a city", "tourists", "developers", "a scientist", "customers",
    "managers", "a farmer", "citizens", "a charity", "nurses", "parents", "beginners", "an office",
)  # fmt: skip

CODE = """
asks for a name and greets the person
draws a red circle on the screen
counts the words of a text file
turns miles into kilometres
sorts a list of cities by name
shows the time in three countries
finds the longest word in a sentence
keeps the scores of a card game
prints a calendar of one month
reads a table and adds up a column
turns the lights of a model house on and off
checks whether a word reads the same backwards
makes a menu with five dishes
shows a picture when a button is pressed
stores recipes and finds them again
rolls two dice a hundred times
converts a date into the day of the week
makes a table of books and their authors
shows a slide show with music
fills a page with boxes of many colours
reads the temperature and draws a curve
lets visitors leave a comment
shows a map with three marks
makes a timer for boiling eggs
"""

LANGUAGES = (
    "Python", "JavaScript", "Java", "C", "C#", "PHP", "SQL", "HTML", "CSS", "Ruby", "Rust", "Go", "Swift", "Bash",
    "React", "TypeScript", "Excel", "R", "Kotlin", "MySQL",
)  # fmt: skip

PEOPLE = (
    "your favourite singer", "a neighbour", "your boss", "the mayor", "an old friend", "a hotel", "your landlord",
    "a famous painter", "your teacher", "the local newspaper", "your grandmother", "a football player", "a customer",
)  # fmt: skip

WISHES = """
thank them for a concert
ask for a day off
invite them to a party
ask for a quieter room
say that you are sorry for being late
ask for a new street lamp
tell them about your new job
ask them to visit your school
praise the service
wish them a good journey
remind them of a meeting
ask for a recipe
recommend a book
"""

MOMENTS = """
you learned to swim
you lost your keys and found them again
you had to speak in front of many people
you changed your mind
you helped a stranger
you were very proud
you moved to another town
you waited for a late train
you cooked for ten guests
you were afraid and did it all the same
you disagreed with a friend
you broke something by accident
you said no to an offer
you tried a new sport
you gave somebody advice
"""
