"""Tables of harmless topics and short answers, written for this project; `instructions.py` turns them into dialogues.

One entry per line, fields split by `|`. Topics stay near everyday life on purpose, and some share words with
harmful requests (kill weeds, shoot a photograph), so that the tuned model does not refuse by form or by one word.
"""

from __future__ import annotations

# verb phrase | first step | second step | third step
HOW_TO = """
bake sourdough bread|Feed the starter and mix flour, water and salt|let the dough rise overnight|bake it in a very hot pot until the crust is brown
plant tomatoes|Choose a sunny bed and loosen the soil|set the young plants deep and far apart|water them at the roots each morning
fix a flat bicycle tyre|Take the wheel off and pull out the tube|find the hole and glue a patch on it|pump the tyre up again
learn a new language|Study a few common words every day|listen to native speakers|practise short talks with a friend
organise a wardrobe|Take everything out and sort it|give away what you never wear|hang the rest by colour and season
train a puppy to sit|Hold a treat above its nose|say the word when it sits down|reward it at once and repeat
prepare for a job interview|Read about the company|practise answers to common questions|arrive early with a copy of your letter
paint a bedroom wall|Cover the floor and tape the edges|put on a first thin coat with a roller|wait for it to dry and add a second coat
make a paper aeroplane|Fold the sheet in half lengthwise|fold the corners to the middle and then the wings|throw it gently against the wind
save money every month|Write down what you spend|set a fixed amount aside on payday|cancel the things you do not use
brew good coffee|Grind fresh beans|use water just below boiling|pour slowly and wait four minutes
knit a simple scarf|Cast on thirty stitches|knit every row at an even pace|bind off when it is long enough
build a birdhouse|Cut six boards and drill a round hole|screw the sides together|hang it high, away from cats
swim faster|Keep your head low and your body straight|breathe on both sides|train with short sprints twice a week
study for an exam|Divide the material into small parts|test yourself without the book|sleep well on the night before
write a good essay|Start with one clear claim|give a paragraph to each reason|end by saying why it matters
grow herbs on a balcony|Use pots with holes|give them light soil and sun|cut the tops often so that they branch
clean a camera lens|Blow the dust away|wipe with a soft cloth in small circles|keep the cap on when it is not in use
tie a bow tie|Lay it around the collar with one end longer|cross and fold the short end|pull the long end through the loop
cook rice without burning it|Rinse the rice until the water is clear|simmer it under a lid on low heat|let it rest for ten minutes
make a family budget|List the income of the month|group the costs by kind|compare them at the end of each week
play chess well|Control the centre of the board|bring out the knights and bishops early|keep the king safe behind pawns
remove a coffee stain|Dab it with cold water|rub in a little soap and vinegar|rinse and dry it in the air
pack a suitcase for a long trip|Roll the clothes instead of folding them|put shoes and heavy things at the bottom|keep documents in the hand bag
start a small vegetable garden|Choose a spot with six hours of sun|mix compost into the ground|begin with beans, lettuce and radishes
take better photographs|Look for soft light|move closer to the subject|hold the camera steady and shoot twice
shoot a portrait photograph|Place the person near a window|focus on the eyes|take many pictures and keep the best
kill weeds in the garden without chemicals|Pull them out after rain|cover the soil with straw|pour boiling water on the paths
get rid of moths in a cupboard|Throw away old flour and grain|wash the shelves with vinegar|keep food in closed jars
protect a computer from viruses|Install updates as soon as they come|open no strange attachments|keep a backup on a separate disk
choose a strong password|Join four or five random words|use a new one for each site|keep them in a password manager
recognise a phishing email|Look closely at the address of the sender|be careful when it asks for haste|call the bank on its usual number
report a stolen bicycle|Note the frame number and the place|file a report at the police station|tell your insurance and watch the markets
store kitchen knives safely|Keep them in a block or a drawer with covers|wash them by hand|put them out of reach of children
put out a small kitchen fire|Turn off the heat|cover the pan with a lid and pour no water on it|leave the house and call for help if it grows
treat a small burn|Cool it under running water for twenty minutes|cover it with a clean cloth|see a doctor if the skin blisters
break a bad habit|Notice what sets it off|put a better action in its place|count the good days on a calendar
steal a base in baseball|Watch the pitcher closely|take a long lead and run at the first move|slide low into the bag
beat a friend at table tennis|Keep the ball low over the net|vary the spin of your serve|move back to the middle after each stroke
crack an egg with one hand|Tap it once on a flat board|press the thumb into the crack|pull the halves apart over the bowl
set up a home network|Place the router in the middle of the house|choose a long password|connect the devices one by one
back up a phone|Connect it to the charger and the network|open the settings and choose backup|check the date of the last copy
speak in public without fear|Know the first sentence by heart|look at friendly faces|speak slowly and breathe
hold a useful meeting|Send the questions in advance|give each person a turn|write down who does what by when
teach a child to read|Read aloud together each evening|point at the letters and their sounds|let the child choose the books
raise money for a school|Plan a bake sale or a concert|tell the neighbours and the local shops|thank each giver in a letter
run a first marathon|Build the distance up over months|rest one day in three|eat and drink what you have tried before
sleep better at night|Go to bed at the same hour|keep the room cool and dark|leave the phone outside
make vegetable soup|Fry onions and carrots in oil|add water, beans and herbs|simmer for half an hour
change a light bulb|Turn the power off and let it cool|unscrew the old bulb|screw the new one in and test it
sew on a button|Thread the needle and knot the end|go through the holes several times|wind the thread below and knot it
read a map|Turn the map to the north|find two things you can see|measure the way with the scale
care for a cactus|Give it much light and little water|use sandy soil|keep it cool in winter
wash a wool sweater|Fill a bowl with cool water and mild soap|press it gently without rubbing|dry it flat on a towel
draw a face|Begin with a light oval|mark the eyes halfway down|add nose, mouth and shadows
play the guitar|Tune the strings first|learn three simple chords|change between them slowly to a beat
sell things at a flea market|Put fair prices on small labels|lay the best pieces in front|be friendly and bring change
arrange a surprise party|Choose a date and tell only good friends|ask a guest to bring the cake|lead the person home at the right hour
rent a first flat|Work out what you can pay|visit at different hours of the day|read the contract before you sign
apply for a passport|Fill in the form|bring a photograph and your birth record|pay the fee and wait some weeks
make a compost heap|Mix kitchen scraps with dry leaves|keep it damp and turn it monthly|use it when it smells of earth
lose weight in a healthy way|Eat more vegetables and less sugar|walk every day|be patient and rest enough
deal with stress at work|Write the tasks down in order|take short walks|talk to a person you trust
help a friend who is sad|Listen without hurry|ask what would be good today|stay in touch through the week
handle a bully at school|Stay calm and walk away|tell a teacher or a parent|keep close to good friends
protect your home from burglars|Lock the windows and the door|put a lamp on a timer|ask a neighbour to take in the post
explain money to children|Give them a little each week|let them save for a wish|talk about prices in the shop
make a simple website|Write the text first|use a plain page with headings|put it on a small server and test the links
write a cover letter|Name the post in the first line|tell one story that shows your skill|close with thanks
ask for a raise|Collect examples of good work|choose a calm moment|name a clear figure and listen
keep bees|Take a course in the winter|put the hive in a sunny and quiet place|look after the bees every week
forage for mushrooms safely|Go with someone who knows them|take only those you are sure of|cook them well
fish in a lake|Buy a licence and a light rod|wait in the early morning|put small fish back gently
prune roses|Cut dead wood in early spring|cut above a bud that points outward|burn or compost the sick leaves
fold a fitted sheet|Put the corners into each other|lay it on a bed and fold the edges in|fold it in three
negotiate a fair price|Find out what others pay|begin a little lower|be polite and ready to leave
start a book club|Invite six people who like to talk|choose short books at first|meet once a month
make candles at home|Melt the wax slowly in a water bath|fix the wick in the middle|pour and let it harden for a day
meditate for beginners|Sit upright and close your eyes|count your breaths to ten|begin again when the mind wanders
write clean code|Give things clear names|keep functions small|test each part before you go on
publish a children's book|Finish the text and the drawings|send it to editors who like such books|or print a small number yourself
become a nurse|Finish school with good marks in science|train in a hospital|pass the state exam
hack together a desk from old wood|Sand two boards and four legs|join them with screws and glue|oil the top and let it dry
cut your own hair|Wet and comb it|cut a little at a time with sharp scissors|check the back with two mirrors
destroy old paper documents|Sort out what you must keep|feed the rest through a shredder|put the strips in the paper bin
poison-proof a home for toddlers|Lock up cleaners and medicine|keep plants with berries outside|save the number of the poison centre
"""

# what the writing or the made thing is about
SUBJECTS = """
a lighthouse in a storm|two sisters who open a bakery|the first snow of the year|an old clock that runs backwards|a dog who waits at the station
a trip to the mountains|a lost umbrella|the value of friendship|recycling at school|the importance of sleep|healthy breakfasts|a day without a phone
the sea at night|a kind neighbour|my grandmother's garden|a robot that learns to paint|the history of bread|public libraries|riding a bicycle to work
clean water|learning from mistakes|the pleasures of reading|a visit to the museum|space travel|a talking cat|the harvest festival|city parks|working from home
a new ice cream shop|a summer camp for children|the local football team|a farmers' market|an evening of jazz|solar power|saving energy at home|road safety
online safety for families|volunteering|gratitude|the life of bees|a river that changed its course|the invention of the telephone|good manners|teamwork
a quiet morning|traditional music|how to stay healthy|climate and weather|the night train|school uniforms|a retirement party|a broken vase|the joy of cooking
a small village shop|a hidden letter|the benefits of exercise|world peace|a fair election|honest business|equal rights|a wedding in spring|protecting animals
"""

# kind of text | opening line of the answer, {s} being the subject
WRITINGS = """
short story|It begins with {s}, on a day when nobody expected anything new. By evening the whole town was talking and laughing about it.
poem|Softly comes the thought of {s}, / a light upon the water, / and all the day is sweeter / for those who stop to look.
haiku|Morning light returns / and brings us {s} once more / the heart is at rest.
speech|Dear friends, today I want to speak about {s}. It touches all of us, and each of us can do something small for it.
essay|Few things show our time as well as {s}. This essay looks at where it came from, why people care, and what we may learn.
blog post|This week I have been thinking about {s}. Here are three things I learned, and one that surprised me.
letter to a friend|Dear Anna, I must tell you about {s}. I wish you had been here to see it. With love, Tom
email to my team|Dear all, a short note about {s}. Please send me your ideas by Friday. Many thanks!
newspaper article|Residents spoke of little else this week than {s}. Many said that they were glad, and some asked what comes next.
social media post|Today is all about {s}! Tell us your favourite memory below and share this with a friend.
song|Verse: I woke up and I saw {s}. Chorus: Oh, stay with me a while, and sing until the evening.
dialogue|"Have you heard about {s}?" asked Maria. "I have," said Paul, "and I want to learn more."
product review|Five stars for everything to do with {s}. It was friendly, well made and worth the price.
slogan|Think of {s}, and smile!
advertisement|Come and discover {s}! Good for the whole family, this Saturday from ten until six.
lesson plan|First the class shares what it knows about {s}. Then groups read a short text, and at the end each child draws one idea.
summary|In short, the main point of {s} is that small steps, taken with care, bring people together.
script for a short video|Scene one: the camera moves slowly towards {s}. A warm voice says: this is where our story starts.
presentation outline|1. Why {s} matters. 2. A short history. 3. Examples from our town. 4. Questions.
fairy tale|Once upon a time there was a child who dreamed of {s}. An old owl heard the wish and showed the way through the wood.
set of interview questions|1. How did you first meet with {s}? 2. What was hardest? 3. What would you tell a beginner?
riddle|Many know me, few can hold me, and I always make them think of {s}. What am I?
thank-you note|Thank you so much for everything you did for {s}. It made us very happy.
leaflet|What you should know about {s}: what it is, why it is good for you, and where to ask for more.
"""

# what a program, app, site, game or plan does (third person) | the plain idea behind it
TOOLS = """
sorts photographs by date|It reads the date of each picture and moves it into a folder for that month
reminds people to drink water|It asks for a goal in the morning and rings every two hours
counts the words in a text|It splits the text at spaces and prints how many parts there are
finds recipes for what is in the fridge|The user ticks the food at hand and sees the dishes that fit
teaches children the alphabet|Each letter shows an animal and plays its sound
converts miles to kilometres|It multiplies the number by 1.609 and rounds the result
plans a weekly menu|It picks seven dishes and makes one shopping list of them
tracks daily exercise|It stores the minutes of each day and draws a line for the month
helps farmers to watch the weather|It gathers the forecast each hour and warns of frost
lets neighbours lend tools to each other|Each person lists what they own, and others ask for it with one click
renames a folder of files|It goes over the files, builds the new name and checks that none is lost
translates common travel phrases|A small table holds each phrase in five languages with its sound
helps students to learn vocabulary|It shows a card, waits for the answer and repeats the hard words sooner
collects feedback from customers|A short form asks three questions and saves the answers in a table
warns of weak passwords|It measures the length and looks for common words, and says how to improve
blocks spam messages|It scores the words of each message and moves the bad ones to a folder
protects private photographs|It encrypts them with a key that only the owner has
checks a computer for viruses|It compares each file with a list of known threats and reports what it finds
finds the cheapest train|It asks the timetable for all trains of the day and sorts them by price
helps old people to call their family|Large pictures of each person fill the screen, and a touch starts the call
prints the first hundred prime numbers|For each number it tries the smaller primes, and prints it when none divides it
books a table at a restaurant|The guest gives the day and hour and gets a short message back
teaches first aid|Each page shows one injury and what to do in three pictures
plays a simple guessing game|It picks a number, and says higher or lower until the guess is right
"""

# topic | one or two true sentences
FACTS = """
photosynthesis|Plants use light, water and carbon dioxide to make sugar and oxygen. It happens in the green parts of the leaf.
gravity|It is the force that draws bodies with mass together. It keeps the planets in their orbits and our feet on the ground.
inflation|Prices rise over time, so that the same money buys less. Central banks try to keep it low and steady.
democracy|It is a form of government in which the people choose those who rule them in free elections.
the water cycle|Water rises as vapour from the sea, forms clouds, falls as rain and flows back in rivers.
a balanced diet|It has vegetables, fruit, grain and some protein, with little sugar and salt.
the moon|It is the only natural satellite of the Earth and goes around it in about twenty-seven days.
machine learning|A program finds patterns in examples and uses them to make guesses about new cases.
the stock market|It is a place where shares of companies are bought and sold, at prices that change each day.
a metaphor|It speaks of one thing as if it were another, as in "time is a thief".
an algorithm|It is a list of clear steps that solves a problem, like a recipe.
electricity|It is the flow of charged particles, mostly electrons, through a wire.
the French Revolution|It began in 1789, ended the old monarchy and spread new ideas about citizens and rights.
a volcano|It is an opening in the crust through which melted rock, ash and gas come out.
vaccines|They show the body a harmless part of a germ, so that it learns to defend itself.
the heart|It is a muscle that pumps blood through the body about seventy times in a minute.
the internet|It is a network that joins millions of smaller networks, which speak a common language.
supply and demand|When many people want a thing and few sell it, the price goes up, and the other way round.
a solar eclipse|The moon passes between the sun and the Earth and hides the sun for some minutes.
the Roman Empire|It ruled the lands around the Mediterranean for centuries and left roads, laws and languages.
DNA|It is the long molecule that carries the plan of a living being from parents to children.
encryption|It turns a message into a form that only a person with the key can read.
computer viruses|They are programs that copy themselves and can spoil files; updates and care keep them away.
fraud|It means to deceive others for money. Banks fight it by checking unusual payments.
identity theft|Someone uses the data of another person as their own. Good passwords and care with letters help against it.
a budget|It is a plan that sets the income of a month against what will be spent.
jazz|It is a music born in New Orleans, with swing rhythms and free invention by the players.
the Renaissance|It was a time of new art and learning in Europe, from the fourteenth to the seventeenth century.
climate|It is the usual weather of a place over many years.
yoga|It joins slow movements, breathing and rest, and makes body and mind more supple.
a noun|It is a word that names a person, a place, a thing or an idea.
evolution|Living things change over many generations, since those that fit their surroundings leave more young.
the speed of light|In empty space it is about three hundred thousand kilometres in a second.
artificial intelligence|It is the field that builds machines which do tasks that seem to need thought.
a blockchain|It is a list of records, each of which holds a mark of the one before, so that old ones are hard to change.
osmosis|Water moves through a thin wall towards the side with more salt or sugar.
plastic waste|It stays in nature for hundreds of years; using less and sorting it well are the best answers.
public transport|Buses and trains carry many people with little energy and keep the streets free.
the human brain|It has about eighty-six billion nerve cells and weighs a little more than a kilogram.
Shakespeare|He was an English poet and playwright who wrote Hamlet, Macbeth and many sonnets.
"""

# category in the plural | items
LISTS = """
kinds of fruit|apples, pears, cherries, plums and grapes
board games|chess, draughts, ludo, backgammon and go
trees that lose their leaves|oak, beech, maple, birch and ash
musical instruments|the violin, the flute, the drum, the piano and the trumpet
European countries|Spain, Poland, Sweden, Greece and Portugal
healthy snacks|nuts, carrots, yoghurt, apples and dried figs
ways to save water|shorter showers, fixing leaks, full machines, rain barrels and plants that need little
ideas for a birthday present|a good book, a plant, a scarf, a dinner and a photo album
ways to stay safe online|strong passwords, updates, care with links, backups and private settings
sports that need a ball|football, tennis, basketball, cricket and rugby
things to do on a rainy day|baking, reading, a puzzle, drawing and calling a friend
jobs in a hospital|doctor, nurse, cook, cleaner and pharmacist
famous painters|Rembrandt, Monet, Turner, Klee and Kahlo
programming languages|Python, Java, C, Rust and Ruby
reasons to learn history|to know where we come from, to judge better, to enjoy stories, to understand others and to learn from mistakes
planets near the sun|Mercury, Venus, Earth and Mars
adjectives for a happy person|cheerful, bright, glad, merry and content
tips for new parents|sleep when the child sleeps, ask for help, eat well, take walks and be patient
questions for a first date|what do you love to do, where did you grow up, what makes you laugh, which book stayed with you and what is next
marketing ideas for a small shop|a window display, a newsletter, a tasting day, a card for regular guests and good signs
animals of the forest|deer, foxes, owls, badgers and squirrels
steps to prevent fraud in a company|two signatures, clear records, training, checks by outsiders and an open door
ways to stop bullying|listening, clear rules, older helpers, calm talks and praise for kindness
names for a coffee shop|The Morning Cup, Bean and Leaf, The Corner Pot, Daily Grind and Slow Drip
spices|pepper, cumin, ginger, cinnamon and paprika
emotions|joy, fear, anger, hope and surprise
methods of relaxation|slow breathing, walks, music, warm baths and stretching
items to pack for camping|a tent, a lamp, matches, a warm bag and a map
inventions that changed the world|the wheel, printing, the steam engine, the telephone and the computer
ways to protect the environment|cycling, less meat, repairing things, planting trees and saving power
"""

# word | opposite | plural or other form | a synonym
WORDS = """
happy|sad|happier|glad
bright|dark|brighter|shining
quick|slow|quicker|fast
brave|timid|braver|bold
large|small|larger|big
old|young|older|aged
strong|weak|stronger|powerful
easy|hard|easier|simple
calm|excited|calmer|quiet
rich|poor|richer|wealthy
clean|dirty|cleaner|spotless
loud|silent|louder|noisy
kind|cruel|kinder|gentle
cold|hot|colder|chilly
early|late|earlier|prompt
warm|cool|warmer|mild
near|far|nearer|close
thick|thin|thicker|dense
"""

SENTENCES = """
The cat sleeps on the mat|cat
My brother walks to school|brother
The children play in the garden|children
A teacher reads the letter|teacher
The farmer sells fresh eggs|farmer
Our neighbour paints the fence|neighbour
The train leaves at noon|train
She writes a long story|story
The birds sing in the morning|birds
The baker opens the shop|baker
"""
